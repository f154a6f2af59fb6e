"""Metrics of the machine's load, under the names that MLflow's page shows as system metrics."""

import psutil
import torch

_MEGABYTE = 2**20


def system_metrics() -> dict[str, float]:
    """Return the present load; CPU utilisation is a mean since the last call, over all cores and all processes.

    Returns:
        Percentages, or megabytes (2^20 bytes) in use, of the machine, of this process and of each GPU, by names that
        begin with `system/`.
    """
    memory, gpus = psutil.virtual_memory(), range(torch.cuda.device_count())
    used = {f"system/gpu_{gpu}_memory_usage_megabytes": _gpu_bytes(gpu) / _MEGABYTE for gpu in gpus}
    return used | {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / _MEGABYTE,
    }


def _gpu_bytes(gpu: int) -> int:
    free, total = torch.cuda.mem_get_info(gpu)
    return int(total - free)
