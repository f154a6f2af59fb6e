"""The bits of tensors: as integers that can be compared, as bytes, and as a hash that identifies weights."""

import ctypes
import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits_of(tensor: Tensor) -> Tensor:
    """Return a view of a tensor's bits as integers, in which 0.0 and -0.0 differ and a NaN equals itself."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in the order of its indices; no copy if it is contiguous and on the CPU."""
    whole = tensor.detach().cpu().contiguous()
    if whole.numel() == 0:
        return memoryview(b"")
    buffer = (ctypes.c_ubyte * (whole.numel() * whole.element_size())).from_address(whole.data_ptr())
    buffer.tensor = whole  # type: ignore[attr-defined]  # the tensor owns the memory, so it must outlive the buffer
    return memoryview(buffer)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of the names and bits of weights; it differs between two models if any name or bit differs.

    Tied weights must have one name. If the mapping reads each tensor on access, memory holds one tensor at a time.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(bytes_of(weights[name]))
    return digest.hexdigest()
