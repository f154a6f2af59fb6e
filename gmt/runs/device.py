"""Selects the device of a run."""

import os

import torch

from gmt.errors import UserError
from gmt.runs.gpus import gpus_here
from gmt.runs.hermetic import KERNELS
from gmt.runs.settings import ResourceSettings
from gmt.training.workers import num_workers


def device_of(resources: ResourceSettings) -> str:
    """Return `cuda` for a run that takes a GPU and `cpu` for one that takes none.

    Raises:
        UserError: the run takes a GPU and torch finds none.
    """
    if not resources.num_gpus(gpus_here()):
        return "cpu"
    if not torch.cuda.is_available():
        if resources.device == "cuda":
            raise UserError("resources.device must be cpu or auto here, got cuda: torch finds no GPU")
        raise UserError(f"resources.gpus must be 0 here, got {resources.gpus}: torch finds no GPU that it can use")
    return "cuda"


def kind_of_device(device: str, threads: int) -> list[str]:
    """Return the properties of a device that may change the last bits of a result, and so an answer.

    Args:
        device: `cpu` or `cuda`.
        threads: the number of threads on the CPU.
    """
    if device == "cuda":
        return [device, torch.cuda.get_device_name(), f"CUDA {torch.version.cuda or torch.version.hip}"]
    kernels = {name: os.environ[name] for name in KERNELS if name in os.environ}
    return [device, torch.backends.cpu.get_cpu_capability(), f"{threads} threads", repr(sorted(kernels.items()))]


def check_device(resources: ResourceSettings) -> None:
    """Refuse a device on which a run can't train, or would train with another batch size.

    Raises:
        UserError: as `device_of`; or torch sees several GPUs, over which transformers would spread one worker's batch.
    """
    has_one_gpu = device_of(resources) == "cuda" and num_workers() == 1
    if has_one_gpu and (num_visible := torch.cuda.device_count()) > 1:
        raise UserError(
            f"CUDA_VISIBLE_DEVICES must name one GPU for a run with one worker, but torch sees {num_visible} GPUs"
        )
