"""Random scores as hashes of the entries' indices: the same on any device, on any shard, and after a checkpoint."""

import hashlib

import torch
from torch import Tensor

from gmt.masking.native import has_triton, library

_MASK = 0x7FFFFFFF
MAX_ENTRIES = 1 << 31  # the hash is a bijection of 31 bits, so that smaller tensors have distinct scores


def keys(seed: int, step: int, name: str) -> tuple[int, int]:
    """Return the two 31-bit keys of a parameter at a step."""
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & _MASK, int.from_bytes(digest[4:8], "big") & _MASK


def random_bits(num: int, key: tuple[int, int], *, start: int, device: torch.device) -> Tensor:
    """Return hashes of the indices start, start + 1, ..., as int32 of shape [num], each in [0, 2^31).

    Args:
        num: the number of hashes.
        key: the result of `keys`.
        start: the first index in the whole tensor, flattened; every index must be below `MAX_ENTRIES`.
        device: the device of the result; the values do not depend on it.
    """
    native = library()
    if device.type == "cpu" and native is not None:
        out = torch.empty(num, dtype=torch.int32)
        native.random_bits(out.data_ptr(), num, start, *key)
        return out
    if has_triton(device):
        from gmt.masking import triton_kernels

        return triton_kernels.random_bits(num, key, start=start, device=device)
    return hashed(torch.arange(start, start + num, dtype=torch.int32, device=device), key)


def hashed(index_N: Tensor, key: tuple[int, int]) -> Tensor:
    """Return the hashes of int32 indices, computed in place with torch ops; kernels.h names the hash's source."""
    h_N = index_N.bitwise_xor_(key[0])
    h_N ^= h_N >> 16
    h_N.mul_(0x7FEB352D).bitwise_and_(_MASK)
    h_N ^= h_N >> 15
    h_N ^= key[1]
    h_N.mul_(0x846CA68B - (1 << 32)).bitwise_and_(_MASK)
    h_N ^= h_N >> 16
    return h_N
