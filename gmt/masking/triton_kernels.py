"""Triton kernels for CUDA that count magnitudes and draw scores, and functions that the other kernels share.

The modules with kernels are imported only if there are CUDA tensors and Triton, which must be 3.4 or newer.
`GMT_NATIVE=0` turns off Triton and the C code; torch ops then compute the same masks. This module knows nothing of
thresholds.

The sizes below were timed on an H200 with Triton 3.6 (docs/masking.md). That version counts a histogram bin by bin: 8
bits take four times as long as reading the float32 entries, and 11 bits thirty times as long. Triton 3.9 counts each
entry by one atomic in shared memory, as its machine code shows; this was not timed.

Shape suffixes: G groups; N entries of a chunk, flattened; B entries of a block; K bins.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmt.masking.counting import Chunks

BLOCK = 4096  # entries that a program reads at a time
NUM_WARPS = 8
PROGRAMS_PER_PROCESSOR = 4  # so many fit, by their registers: 62 in each of 256 threads, compiled for sm_80


def field_counts(groups: Sequence[Chunks], prefix_G: Tensor, shift: int, width: int) -> Tensor:
    """Count the values of a bit field over the magnitudes with given higher bits, without waiting for the device.

    Args:
        groups: for each group, a function that returns its chunks: contiguous tensors of shape [N], float32, bfloat16,
            float16 or int32 bits, on the device of `prefix_G`.
        prefix_G: for each group, the higher bits `bits >> (shift + width)` of the magnitudes to count, int64.
        shift, width: the field is `(bits >> shift) & (2^width - 1)`.

    Returns:
        int64 of shape [G, K + 1], with K = 2^width: counts of the field's values. The last column is the number of
        exact zeros if the field is the highest; otherwise it is 0.
    """
    total_GK = torch.zeros(len(groups), (1 << width) + 1, dtype=torch.int64, device=prefix_G.device)
    for group, chunk_N in _chunks_with_group(groups):
        size = len(chunk_N)
        programs = min(num_programs(chunk_N.device), triton.cdiv(size, BLOCK))
        arguments = (words(chunk_N), prefix_G, total_GK, group, size, shift, width)
        launch(_count_field, programs, *arguments, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return total_GK


def random_bits(num: int, key: tuple[int, int], *, start: int, device: torch.device) -> Tensor:
    """Return the result of `random_bits` in random_bits.py."""
    out_N = torch.empty(num, dtype=torch.int32, device=device)
    if num:
        programs = triton.cdiv(num, BLOCK)
        launch(_random_bits, programs, out_N, num, start, *key, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return out_N


def num_programs(device: torch.device) -> int:
    """Return the number of programs that a device runs at the same time; each adds its counts to the total once."""
    return PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def launch(kernel: Any, programs: int, x: Tensor, *arguments: Any, **settings: Any) -> None:
    """Run a kernel on the device of its first tensor, with a given number of programs."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        # The kernels do no float arithmetic that could be fused; Triton 3.9 warns if the option is not set.
        kernel[(programs,)](x, *arguments, **settings, enable_fp_fusion=False)


def _chunks_with_group(groups: Sequence[Chunks]) -> Iterator[tuple[int, Tensor]]:
    for group, chunks in enumerate(groups):
        for chunk_N in chunks():
            if len(chunk_N):
                yield group, chunk_N


WORDS = {
    torch.float32: torch.int32,
    torch.int32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.float16,
}
"""The dtype in which the kernels read each dtype: float32 as integers, since float units may flush denormals to 0."""


def words(x_N: Tensor) -> Tensor:
    """Return a view of a tensor in the dtype in which the kernels read it."""
    assert x_N.is_contiguous()
    return x_N.view(WORDS[x_N.dtype])


@triton.jit
def magnitude_bits(x_B: tl.tensor) -> tl.tensor:
    """`as_bits` of counting.py: of |x| as float32, for words of float32, bfloat16 and bits, and for float16."""
    if x_B.dtype == tl.int16:
        bits_B = (x_B.to(tl.int32) & 0x7FFF) << 16
    elif x_B.dtype == tl.float16:
        bits_B = x_B.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    else:
        bits_B = x_B & 0x7FFFFFFF
    return bits_B


@triton.jit
def add(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """For tl.reduce: Triton's interpreter can't run tl.sum and tl.cumsum if it was turned on after Triton's import."""
    return a + b


@triton.jit
def larger(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """For tl.reduce, instead of tl.max, for the reason given at `add`."""
    return tl.maximum(a, b)


@triton.jit(do_not_specialize=["group"])
def _count_field(
    x_N: tl.tensor,
    prefix_G: tl.tensor,
    total_GK: tl.tensor,
    group: tl.tensor,
    size: tl.tensor,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Each program counts every num_programs-th block in registers, then adds up; indices are int64 throughout."""
    num_bins: tl.constexpr = 1 << WIDTH
    prefix = tl.load(prefix_G + group)
    counts_K = tl.full([num_bins], 0, tl.int32)  # a program sees far below 2^31 entries of a chunk
    zeros_B = tl.full([BLOCK], 0, tl.int32)
    for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, tl.num_programs(0) * BLOCK):
        at_B = start + tl.arange(0, BLOCK)
        inside_B = at_B < size
        bits_B = magnitude_bits(tl.load(x_N + at_B, mask=inside_B, other=0))
        if SHIFT + WIDTH == 31:
            zeros_B += (inside_B & (bits_B == 0)).to(tl.int32)
        else:
            inside_B &= (bits_B >> (SHIFT + WIDTH)) == prefix
        counts_K += tl.histogram((bits_B >> SHIFT) & (num_bins - 1), num_bins, mask=inside_B)
    row_K = total_GK + group.to(tl.int64) * (num_bins + 1)
    tl.atomic_add(row_K + tl.arange(0, num_bins), counts_K.to(tl.int64), mask=counts_K > 0, sem="relaxed")
    if SHIFT + WIDTH == 31:
        tl.atomic_add(row_K + num_bins, tl.reduce(zeros_B, 0, add).to(tl.int64), sem="relaxed")


@triton.jit(do_not_specialize=["start", "key0", "key1"])
def _random_bits(
    out_N: tl.tensor, size: tl.tensor, start: tl.tensor, key0: tl.tensor, key1: tl.tensor, BLOCK: tl.constexpr
) -> None:
    at_B = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_N + at_B, hashed_bits((at_B + start).to(tl.int32), key0, key1), mask=at_B < size)


@triton.jit
def hashed_bits(hash_B: tl.tensor, key0: tl.tensor, key1: tl.tensor) -> tl.tensor:
    """`hashed` of random_bits.py in registers: torch ops would read and write every entry ten times."""
    hash_B ^= key0
    hash_B ^= hash_B >> 16
    hash_B = (hash_B * 0x7FEB352D) & 0x7FFFFFFF
    hash_B ^= hash_B >> 15
    hash_B ^= key1
    hash_B = (hash_B * -0x7B935975) & 0x7FFFFFFF
    hash_B ^= hash_B >> 16
    return hash_B
