"""Collects versions, commit and hardware for environment.json; none of these is part of the run id."""

import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import torch

from gmt.runs.code_versions import LIBRARIES, checkout, own_checkout, version_of
from gmt.runs.hermetic import KERNELS

_PACKAGES = ("gmt-lab", *LIBRARIES, "huggingface-hub", "ray", "mlflow", "hydra-core")


def environment() -> dict[str, Any]:
    """Return this process's environment, with threads and kernels as they are now."""
    variables = {name: os.environ[name] for name in KERNELS if name in os.environ}
    kernels = {"cpu": torch.backends.cpu.get_cpu_capability(), **variables}
    return _fixed_facts() | {"torch_threads": torch.get_num_threads(), "kernels": kernels}


@lru_cache(maxsize=1)
def _fixed_facts() -> dict[str, Any]:
    """Return the facts that do not change while this process lives."""
    root = own_checkout()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {"python": platform.python_version()} | {p: version_of(p) for p in _PACKAGES},
        **({"commit": None, "dirty": None} if root is None else checkout(root)),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu(),
        "cpu_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
