"""Triton kernels for CUDA that gather and scatter the entries of a bit set in one pass, without waiting for the device.

support.py imports this module only if there are CUDA tensors and Triton. torch would need a mask of one byte per entry,
and would wait for the number of kept entries.

Shape suffixes: N entries of a tensor, flattened; K of them that are kept; M bytes of the set; P programs, each of BLOCK
entries; B entries of a block.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmt.masking.triton_kernels import add, launch

BLOCK = 2048  # entries of a program
NUM_WARPS = 4
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # dtypes that hold the bits of an entry


def starts(set_M: Tensor, num_entries: int, num_kept: int) -> Tensor:
    """Return how many entries are kept before each block, shape [P]; int32 if that is wide enough, else int64."""
    dtype = torch.int32 if num_kept < 1 << 31 else torch.int64
    count_P = torch.empty(triton.cdiv(num_entries, BLOCK), dtype=dtype, device=set_M.device)
    launch(_count_set, len(count_P), set_M, count_P, num_entries, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return count_P.cumsum(0, dtype=dtype) - count_P


def gather_set(x_N: Tensor, set_M: Tensor, start_P: Tensor, num_kept: int) -> Tensor:
    """Return a copy of the kept entries, of shape [K].

    Args:
        x_N: a contiguous tensor of any dtype.
        set_M: the mask of kept entries as `pack` of packing.py packs it, uint8 of shape [ceil(N / 8)].
        start_P: the result of `starts`.
        num_kept: K, the number of kept entries.
    """
    x_K = x_N.new_empty(num_kept)
    if num_kept:
        words = _WORDS[x_N.element_size()]
        arguments = (x_N.view(words), set_M, start_P, x_K.view(words), len(x_N))
        launch(_gather_set, len(start_P), *arguments, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return x_K


def scatter_set(x_N: Tensor, set_M: Tensor, start_P: Tensor, x_K: Tensor) -> None:
    """Set the kept entries of `x_N` to `x_K`, in place; both contiguous and of one dtype."""
    if len(x_K):
        words = _WORDS[x_N.element_size()]
        arguments = (x_N.view(words), set_M, start_P, x_K.view(words), len(x_N))
        launch(_scatter_set, len(start_P), *arguments, BLOCK=BLOCK, num_warps=NUM_WARPS)


@triton.jit
def _kept(set_M: tl.tensor, at_B: tl.tensor, size: tl.tensor) -> tl.tensor:
    byte_B = tl.load(set_M + (at_B >> 3), mask=at_B < size, other=0).to(tl.int32)
    return (byte_B >> (at_B & 7).to(tl.int32)) & 1


@triton.jit
def _count_set(set_M: tl.tensor, count_P: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr) -> None:
    at_B = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    count = tl.reduce(_kept(set_M, at_B, size), 0, add)
    tl.store(count_P + tl.program_id(0), count.to(count_P.dtype.element_ty))


@triton.jit
def _places(
    set_M: tl.tensor, start_P: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return this program's indices, whether each is kept, and the place of each among all kept entries."""
    at_B = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept_B = _kept(set_M, at_B, size)
    place_B = tl.load(start_P + tl.program_id(0)) + tl.associative_scan(kept_B, 0, add) - kept_B
    return at_B, kept_B != 0, place_B


@triton.jit
def _gather_set(
    x_N: tl.tensor, set_M: tl.tensor, start_P: tl.tensor, x_K: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr
) -> None:
    at_B, kept_B, place_B = _places(set_M, start_P, size, BLOCK)
    tl.store(x_K + place_B, tl.load(x_N + at_B, mask=kept_B), mask=kept_B)


@triton.jit
def _scatter_set(
    x_N: tl.tensor, set_M: tl.tensor, start_P: tl.tensor, x_K: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr
) -> None:
    at_B, kept_B, place_B = _places(set_M, start_P, size, BLOCK)
    tl.store(x_N + at_B, tl.load(x_K + place_B, mask=kept_B), mask=kept_B)
