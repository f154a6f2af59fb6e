"""Counts and hides GPUs. Imports no torch: planning uses it too, and CUDA reads its environment variables only once."""

import ctypes
import importlib.util
import os
import runpy
from functools import cache
from itertools import takewhile
from pathlib import Path

# The variables that limit the GPUs a process may use, by torch's build.
_VARIABLES = {"cuda": "CUDA_VISIBLE_DEVICES", "hip": "HIP_VISIBLE_DEVICES"}
_NONE = "-1"  # hides all GPUs from CUDA and from ROCm; ROCm takes an empty text for "all"
_NVML = "libnvidia-ml.so.1"
_HIDDEN: dict[str, list[str]] = {}  # the GPUs that the environment listed before all were hidden
_DEVICES = Path("/dev")
_AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")


@cache
def gpus_here() -> int:
    """Return the number of GPUs that the installed torch can use in this process, as counted at the first call.

    A torch built for the CPU can use none. CUDA_VISIBLE_DEVICES, or HIP_VISIBLE_DEVICES for a torch built for ROCm,
    lists the GPUs that may be used; without the variable all may.
    """
    build = _build_of_torch()
    if build is None:
        return 0
    num_installed, visible = _num_nvidia() if build == "cuda" else _num_amd(), _visible(build)
    return num_installed if visible is None else min(num_installed, len(visible))


def hide_gpus() -> None:
    """Hide every GPU from this process and its children; must be called before CUDA is first used."""
    if (build := _build_of_torch()) is not None and (visible := _visible(build)):
        _HIDDEN[build] = visible  # a later run of this process may use one of them, by `show_one_gpu`
    os.environ |= dict.fromkeys(_VARIABLES.values(), _NONE)


def show_one_gpu() -> None:
    """Hide all GPUs but the first from this process, as Ray does in a worker; must be called before CUDA is first used.

    transformers would spread a batch over all GPUs that it sees, and so train with another batch size.
    """
    build = _build_of_torch()
    if build is not None and gpus_here() > 1:
        visible = _visible(build)
        if visible == []:
            visible = _HIDDEN.get(build)
        os.environ[_VARIABLES[build]] = (visible or ["0"])[0]


def _visible(build: str) -> list[str] | None:
    """Return the GPUs that the environment lists, up to the first invalid entry, as CUDA does; None without a list."""
    text = os.environ.get(_VARIABLES[build])
    if text is None:
        return None
    return list(takewhile(lambda gpu: gpu not in ("", _NONE, "NoDevFiles"), (t.strip() for t in text.split(","))))


@cache
def _build_of_torch() -> str | None:
    """Return `cuda` or `hip`; None for a torch that is built for neither."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))  # imports nothing
    return next((name for name in _VARIABLES if version.get(name) is not None), None)


def _num_nvidia() -> int:
    """Count the GPUs by NVIDIA's management library, as Ray does: unlike CUDA it takes no memory of a GPU."""
    try:
        nvml = ctypes.CDLL(_NVML)
    except OSError:  # a container may have GPUs without having this library
        return len(list(_DEVICES.glob("nvidia[0-9]*")))
    number = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() != 0:
        return 0
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
    handle = ctypes.c_void_p()  # NVML counts GPUs that a container or a Slurm job may not use, but gives no handle
    usable: int = sum(nvml.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(handle)) == 0 for i in range(number.value))
    nvml.nvmlShutdown()
    return usable


def _num_amd() -> int:
    """Count the nodes of the kernel's AMD driver that have a GPU."""
    return sum(path.read_text(encoding="utf-8").strip() not in ("", "0") for path in _AMD_NODES.glob("*/gpu_id"))
