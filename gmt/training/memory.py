"""The memory of one training in a process that may do others before and after."""

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
    """Starts counting anew, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        try:
            _CLEAR_REFS.write_text("5", encoding="utf-8")
        except PermissionError:
            return  # the peak then is the process's, an upper bound of the run's


def peak_bytes() -> int:
    """The peak since `reset_peak`: allocated on the GPU if there is one, else the process's resident set."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of an optimizer's state; of sharded state, those on this process."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(local(tensor).numel() * tensor.element_size() for tensor in tensors)


@functools.cache
def spare_libraries() -> None:
    """Leaves the objects that are alive now, which are the libraries', out of all later collections of garbage.

    A collection looks at each of half a million such objects: a quarter of a second, twice in each run.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # else libraries complain that their objects outlive the interpreter


def give_back() -> None:
    """Gives the system what a training left behind.

    Trainers are cycles of references, which wait for Python's collector with their models. glibc keeps freed memory for
    the threads that asked for it, and Tune starts a thread for each run: a warm worker grew by about a model each time.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's own
        libc.malloc_trim(0)
