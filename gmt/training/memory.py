"""Measures and frees the memory of one training, in a process that may run several trainings."""

import atexit
import ctypes
import functools
import gc
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmt.masking.sharding import local

_CLEAR_REFS = Path("/proc/self/clear_refs")  # Linux: writing 5 resets the peak of the resident set
_STATUS = Path("/proc/self/status")


def reset_peak() -> None:
    """Reset the peak that `peak_bytes` returns, if the system allows it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        try:
            _CLEAR_REFS.write_text("5", encoding="utf-8")
        except PermissionError:
            return  # the peak is then that of the process, an upper bound


def peak_bytes() -> int:
    """Return the peak memory since `reset_peak`: allocated on the GPU if there is one, else the resident set."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def state_bytes(optimizer: Optimizer) -> int:
    """Return the size of an optimizer's state on this process."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(local(tensor).numel() * tensor.element_size() for tensor in tensors)


@functools.cache
def spare_libraries() -> None:
    """Exclude all present objects, which belong to libraries, from later garbage collections.

    A collection visits half a million such objects, which takes a quarter of a second, twice in each run.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # without this, libraries warn that their objects outlive the interpreter


def give_back() -> None:
    """Free the memory that a training no longer needs, and return it to the system.

    Trainers are reference cycles, which hold their models until Python's garbage collector runs. glibc keeps freed
    memory for the thread that allocated it, and Tune starts a thread for each run: without this call, a warm worker
    grew by about the size of a model with each run.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's own
        libc.malloc_trim(0)
