"""Counting and masking on CUDA, in Triton: one read of the scores for each round, one read and one write to mask.

selection.py and engine.py import this only where there are CUDA tensors and Triton, from 3.4 on. `GMT_NATIVE=0` turns
it off, as it does the C: the torch ops give the same masks. Knows nothing of thresholds.

Not measured: no GPU was at hand. The kernels give the CPU's integers in Triton's interpreter and compile for NVIDIA
GPUs, which the tests check; how fast they are, and whether BLOCK and PROGRAMS_PER_PROCESSOR are good choices, nobody
has seen. Triton 3.9 counts an entry with one atomic in shared memory, as its machine code shows; older versions vote
bin by bin, at a cost that grows with the number of bins, and may want narrower fields than counting.py gives.

Shape suffixes: G groups; N entries of a chunk, flattened; B entries of a block; K bins.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmt.masking.counting import Chunks

BLOCK = 4096  # entries a program takes at a time: more of them need over 64 registers, fewer don't pay for 2048 bins
NUM_WARPS = 8
PROGRAMS_PER_PROCESSOR = 4  # fit by registers: 62 in each of 256 threads, compiled for sm_80


def field_counts(groups: Sequence[Chunks], prefix_G: Tensor, shift: int, width: int) -> Tensor:
    """Counts a bit field of those magnitudes whose higher bits are known, without waiting for the device.

    Args:
        groups: for each group what gives its chunks: contiguous tensors of shape [N], float32, bfloat16, float16 or
            int32 bits, on the device of `prefix_G`.
        prefix_G: the known bits, `bits >> (shift + width)`, int64.
        shift, width: the field is `(bits >> shift) & (2^width - 1)`.

    Returns:
        int64 of shape [G, K + 1], with K = 2^width: counts of the field's values, and last, in the first round
        alone, where nothing is known, the number of exact zeros.
    """
    total_GK = torch.zeros(len(groups), (1 << width) + 1, dtype=torch.int64, device=prefix_G.device)
    for group, chunk_N in _each(groups):
        size = len(chunk_N)
        programs = min(num_programs(chunk_N.device), triton.cdiv(size, BLOCK))
        _launch(_count_field, programs, _words(chunk_N), prefix_G, total_GK, group, size, shift, width)
    return total_GK


def zero_outside(x_N: Tensor, lowest: int, highest: int) -> None:
    """Zeroes, in place, the entries of a float tensor whose magnitude's bits don't lie in [lowest, highest]."""
    size = len(x_N)
    if size:
        _launch(_zero_outside, triton.cdiv(size, BLOCK), _words(x_N), size, lowest, highest)


def keep_inside(x_N: Tensor, lowest: int, highest: int) -> Tensor:
    """Which entries' magnitudes have their bits in [lowest, highest], as bool of shape [N]; `x_N` is as a chunk is."""
    keep_N = torch.empty(len(x_N), dtype=torch.bool, device=x_N.device)
    size = len(x_N)
    if size:
        _launch(_keep_inside, triton.cdiv(size, BLOCK), _words(x_N), keep_N.view(torch.int8), size, lowest, highest)
    return keep_N


def num_programs(device: torch.device) -> int:
    """How many programs count at the same time: each adds its counts to the total only once, at its end."""
    return PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def _launch(kernel: Any, programs: int, x_N: Tensor, *arguments: Any) -> None:
    with torch.cuda.device_of(x_N):  # type: ignore[no-untyped-call]
        # No float is computed with, so fusing means nothing; Triton 3.9 warns if it is not told.
        kernel[(programs,)](x_N, *arguments, BLOCK, num_warps=NUM_WARPS, enable_fp_fusion=False)


def _each(groups: Sequence[Chunks]) -> Iterator[tuple[int, Tensor]]:
    for group, chunks in enumerate(groups):
        for chunk_N in chunks():
            if len(chunk_N):
                yield group, chunk_N


def _words(x_N: Tensor) -> Tensor:
    """As the kernels take them: integers where the bits are a float32's, so that no float unit flushes a denormal."""
    assert x_N.is_contiguous()
    match x_N.dtype:
        case torch.float16:
            return x_N
        case torch.bfloat16:
            return x_N.view(torch.int16)
        case torch.float32 | torch.int32:
            return x_N.view(torch.int32)
    raise AssertionError(x_N.dtype)


@triton.jit
def _magnitude_bits(x_B: tl.tensor) -> tl.tensor:
    """`as_bits` of counting.py: of |x| as float32, for words of float32, bfloat16 and bits, and for float16."""
    if x_B.dtype == tl.int16:
        bits_B = (x_B.to(tl.int32) & 0x7FFF) << 16
    elif x_B.dtype == tl.float16:
        bits_B = x_B.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    else:
        bits_B = x_B & 0x7FFFFFFF
    return bits_B


@triton.jit
def _add(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Instead of tl.sum, which the interpreter can't run if Triton was imported before it was turned on."""
    return a + b


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
        bits_B = _magnitude_bits(tl.load(x_N + at_B, mask=inside_B, other=0))
        if SHIFT + WIDTH == 31:
            zeros_B += (inside_B & (bits_B == 0)).to(tl.int32)
        else:
            inside_B &= (bits_B >> (SHIFT + WIDTH)) == prefix
        counts_K += tl.histogram((bits_B >> SHIFT) & (num_bins - 1), num_bins, mask=inside_B)
    row_K = total_GK + group.to(tl.int64) * (num_bins + 1)
    tl.atomic_add(row_K + tl.arange(0, num_bins), counts_K.to(tl.int64), mask=counts_K > 0, sem="relaxed")
    if SHIFT + WIDTH == 31:
        tl.atomic_add(row_K + num_bins, tl.reduce(zeros_B, 0, _add).to(tl.int64), sem="relaxed")


@triton.jit(do_not_specialize=["lowest", "highest"])
def _zero_outside(x_N: tl.tensor, size: tl.tensor, lowest: tl.tensor, highest: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Writes every entry: whole sectors cost less than the scattered ones that are zeroed."""
    at_B = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x_B = tl.load(x_N + at_B, mask=at_B < size, other=0)
    bits_B = _magnitude_bits(x_B)
    keep_B = (bits_B >= lowest) & (bits_B <= highest)
    tl.store(x_N + at_B, tl.where(keep_B, x_B, 0).to(x_B.dtype), mask=at_B < size)


@triton.jit(do_not_specialize=["lowest", "highest"])
def _keep_inside(
    x_N: tl.tensor, out_N: tl.tensor, size: tl.tensor, lowest: tl.tensor, highest: tl.tensor, BLOCK: tl.constexpr
) -> None:
    at_B = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bits_B = _magnitude_bits(tl.load(x_N + at_B, mask=at_B < size, other=0))
    keep_B = (bits_B >= lowest) & (bits_B <= highest)
    tl.store(out_N + at_B, keep_B.to(tl.int8), mask=at_B < size)
