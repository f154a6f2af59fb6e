"""The GPUs of this machine and of a process. Imports no torch: a plan asks too, and CUDA reads its variables once."""

import ctypes
import importlib.util
import os
import runpy
from functools import cache
from itertools import takewhile
from pathlib import Path

# What shows a process only some GPUs, and the library or folder that knows all of them.
_VARIABLES = {"cuda": "CUDA_VISIBLE_DEVICES", "hip": "HIP_VISIBLE_DEVICES"}
_NONE = "-1"  # for CUDA and for ROCm, which takes an empty text for no choice
_NVML = "libnvidia-ml.so.1"
_HIDDEN: dict[str, list[str]] = {}  # the GPUs that the environment listed before all were hidden
_DEVICES = Path("/dev")
_AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")


@cache
def gpus_here() -> int:
    """Return how many GPUs this process could use, by the torch that is installed, when this was first asked.

    A torch that is built for the CPU has no use for any. CUDA_VISIBLE_DEVICES, or HIP_VISIBLE_DEVICES for a torch that
    is built for ROCm, lists those that may be used; without it all may.
    """
    build = _build_of_torch()
    if build is None:
        return 0
    there, shown = _num_nvidia() if build == "cuda" else _num_amd(), _shown(build)
    return there if shown is None else min(there, len(shown))


def hide_gpus() -> None:
    """Hide every GPU from this process and its children; before CUDA is first used."""
    if (build := _build_of_torch()) is not None and (shown := _shown(build)):
        _HIDDEN[build] = shown  # a later run of this process may be shown one of them
    os.environ |= dict.fromkeys(_VARIABLES.values(), _NONE)


def show_one_gpu() -> None:
    """Hide all GPUs but the first from this process, as Ray does in a worker; before CUDA is first used.

    transformers would spread a batch over all that it sees, and so train with another batch size.
    """
    build = _build_of_torch()
    if build is not None and gpus_here() > 1:
        shown = _shown(build)
        if shown == []:
            shown = _HIDDEN.get(build)
        os.environ[_VARIABLES[build]] = (shown or ["0"])[0]


def _shown(build: str) -> list[str] | None:
    """Return the GPUs that the environment lists; CUDA itself stops at the first number that is none."""
    text = os.environ.get(_VARIABLES[build])
    if text is None:
        return None
    return list(takewhile(lambda each: each not in ("", _NONE, "NoDevFiles"), (t.strip() for t in text.split(","))))


@cache
def _build_of_torch() -> str | None:
    """Return `cuda`, `hip`, or None for a torch that is built for neither."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))  # imports nothing
    return next((name for name in _VARIABLES if version.get(name) is not None), None)


def _num_nvidia() -> int:
    """Ask NVIDIA's management library, as Ray does: unlike CUDA it takes no memory of a GPU."""
    try:
        nvml = ctypes.CDLL(_NVML)
    except OSError:  # a container without it may have GPUs all the same
        return len(list(_DEVICES.glob("nvidia[0-9]*")))
    number = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() != 0:
        return 0
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
    handle = ctypes.c_void_p()  # NVML gives none of a GPU that a container or a Slurm job may not use, and counts it
    usable: int = sum(nvml.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(handle)) == 0 for i in range(number.value))
    nvml.nvmlShutdown()
    return usable


def _num_amd() -> int:
    """Count the nodes of the kernel's driver that have a GPU."""
    return sum(path.read_text(encoding="utf-8").strip() not in ("", "0") for path in _AMD_NODES.glob("*/gpu_id"))
