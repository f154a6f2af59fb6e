"""Triton kernels for CUDA that select in one read: they sample scores, count them by bounds, and gather some of them.

A kernel that counts 2^28 entries computes as long as it reads, so every operation on an entry costs time. Therefore a
program counts several blocks before it adds its counts to the totals.

Shape suffixes: P programs; G groups; S samples; F numbers of a group or of a piece; T pieces; K bins; B entries of a
block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmt.masking.rule import to_device
from gmt.masking.triton_kernels import add, hashed_bits, larger, launch
from gmt.masking.triton_tables import Pieces, bits_of, block_of, launch_over, programs_of

BLOCK = 1024  # entries in a block of `split`
BLOCKS = 8  # blocks that a program of `split` counts
SPLIT_WARPS = 2
SLOTS = 256  # samples that a program of `write_samples` writes
PART = 2048  # entries that a program of `count_between` counts


def write_samples(pieces: Pieces, first_slots: Sequence[int], counts: Sequence[int], out: Tensor) -> None:
    """Write the bits of entries of each piece: some, drawn with replacement by a fixed hash, or all of them in order.

    Args:
        pieces: pieces of one kind.
        first_slots: the index in `out` of each piece's first sample.
        counts: the number of samples of each piece; the piece's size for all its entries.
        out: the samples, int32, contiguous; written in place.
    """
    launch_over(_write_samples, pieces, [first_slots, counts], out, step=SLOTS, counts=counts, SLOTS=SLOTS, num_warps=2)


@dataclass(frozen=True, kw_only=True)
class Buffers:
    """Buffers for each group's scores between its bounds.

    Args:
        bits: the buffers of all groups, one after the other; int32, flat.
        start_G, end_G: the indices in `bits` at which each group's buffer begins and ends, int64.
        group_P, block_P: for each program of `count_between`, its group and its block of the group's buffer, int64.
    """

    bits: Tensor
    start_G: Tensor
    end_G: Tensor
    group_P: Tensor
    block_P: Tensor


def buffers_of(sizes: Sequence[int], device: torch.device) -> Buffers:
    """Return a buffer of a given size for each group."""
    size_G = to_device(sizes, device)
    end_G = size_G.cumsum(0)
    group_P, block_P = programs_of([-(-size // PART) for size in sizes], device)
    bits = torch.empty(sum(sizes), dtype=torch.int32, device=device)
    return Buffers(bits=bits, start_G=end_G - size_G, end_G=end_G, group_P=group_P, block_P=block_P)


def split(
    pieces: Pieces,
    groups: Sequence[int],
    low_G: Tensor,
    high_G: Tensor,
    counts_GF: Tensor,
    buffers: Buffers,
    *,
    needs_zeros: bool,
) -> None:
    """Count each group's magnitudes below, at and between two bounds, and write out those between.

    Args:
        pieces: pieces of one kind.
        groups: the group of each piece.
        low_G, high_G: the bounds in bits, int64.
        counts_GF: int64; the kernel adds to it, in this order, the numbers of magnitudes below the lower bound, at it,
            between the two, and at the upper bound if it differs; of zeros; and of programs that found NaN or Inf,
            which drawn scores never contain.
        buffers: the buffers to which the magnitudes between the bounds are written.
        needs_zeros: whether zeros are counted.
    """
    arguments = (low_G, high_G, counts_GF, buffers.bits, buffers.start_G, buffers.end_G)
    settings: dict[str, Any] = {"NEEDS_ZEROS": needs_zeros, "BLOCK": BLOCK, "BLOCKS": BLOCKS, "num_warps": SPLIT_WARPS}
    launch_over(_split, pieces, [groups], *arguments, step=BLOCK * BLOCKS, **settings)


def count_between(buffers: Buffers, num_G: Tensor, prefix_G: Tensor, shift: int, width: int) -> Tensor:
    """Count the values of a bit field over the scores in the buffers whose higher bits equal a prefix.

    Args:
        buffers: buffers that `split` has filled.
        num_G: the number of scores that were found for each buffer, int64; those that did not fit in are ignored.
        prefix_G, shift, width: see `field_counts` of triton_kernels.py.

    Returns:
        int64 of shape [G, 2^width].
    """
    total_GK = torch.zeros(len(num_G), 1 << width, dtype=torch.int64, device=num_G.device)
    tables = (buffers.group_P, buffers.block_P, buffers.start_G, buffers.end_G, num_G, prefix_G, total_GK)
    if programs := len(buffers.group_P):
        settings = {"SHIFT": shift, "WIDTH": width, "BLOCK": PART, "num_warps": 4}
        launch(_count_between, programs, buffers.bits, *tables, **settings)
    return total_GK


@triton.jit
def _write_samples(
    table_FT: tl.tensor,
    piece_P: tl.tensor,
    block_P: tl.tensor,
    out: tl.tensor,
    num_pieces: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    SLOTS: tl.constexpr,
) -> None:
    piece = tl.load(piece_P + tl.program_id(0))
    size = tl.load(table_FT + num_pieces + piece)
    first_slot = tl.load(table_FT + 5 * num_pieces + piece)
    count = tl.load(table_FT + 6 * num_pieces + piece)
    slot_B = tl.load(block_P + tl.program_id(0)) * SLOTS + tl.arange(0, SLOTS)
    drawn_B = hashed_bits((slot_B + (piece << 20)).to(tl.int32) & 0x7FFFFFFF, 0x2545F491, 0x4F6CDD1D)
    at_B = tl.where(count >= size, slot_B, (drawn_B.to(tl.int64) * size) >> 31)
    inside_B = slot_B < count
    bits_B = bits_of(table_FT, piece, num_pieces, 0, at_B, inside_B, TYPE, IS_DRAWN, False)
    tl.store(out + first_slot + slot_B, bits_B, mask=inside_B)


@triton.jit
def _split(
    table_FT: tl.tensor,
    piece_P: tl.tensor,
    block_P: tl.tensor,
    low_G: tl.tensor,
    high_G: tl.tensor,
    counts_GF: tl.tensor,
    out: tl.tensor,
    start_G: tl.tensor,
    end_G: tl.tensor,
    num_pieces: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    NEEDS_ZEROS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    STEP: tl.constexpr = BLOCK * BLOCKS
    piece, first, left = block_of(table_FT, piece_P, block_P, num_pieces, IS_ALIGNED, STEP)
    group = tl.load(table_FT + 5 * num_pieces + piece)
    low, high = tl.load(low_G + group).to(tl.int32), tl.load(high_G + group).to(tl.int32)
    start, capacity = tl.load(start_G + group), tl.load(end_G + group) - tl.load(start_G + group)
    counts = counts_GF + 6 * group
    below, above, beyond, zeros, largest = 0, 0, 0, 0, 0  # `above` counts entries above low, `beyond` those above high
    num_between = 0
    for block_first in range(0, left, BLOCK):
        at_B = block_first + tl.arange(0, BLOCK)
        bits_B = bits_of(table_FT, piece, num_pieces, first, at_B, at_B < left, TYPE, IS_DRAWN, IS_ALIGNED)
        if IS_DRAWN:
            bits_B = tl.where(at_B < left, bits_B, 0)
        else:
            largest = tl.maximum(largest, tl.reduce(bits_B, 0, larger))
        below += _num_negative(bits_B - low)
        above += _num_negative(low - bits_B)
        beyond += _num_negative(high - bits_B)
        if NEEDS_ZEROS:
            zeros += _num_negative(bits_B - 1)
        between_B = _is_negative((low - bits_B) & (bits_B - high))
        num = tl.reduce(between_B, 0, add)
        if num > 0:
            num_between += num
            taken = tl.atomic_add(counts + 2, num.to(tl.int64), sem="relaxed")
            free = tl.minimum(tl.maximum(capacity - taken, 0), BLOCK).to(tl.int32)
            to_B = tl.associative_scan(between_B, 0, add) - between_B
            tl.store(out + start + taken + to_B, bits_B, mask=(between_B != 0) & (to_B < free))
    outside = (-left) & (BLOCK - 1)  # entries past the end, which looked like zeros
    below -= tl.where(low > 0, outside, 0)
    _add_up(counts, below)
    _add_up(counts + 1, left - below - above)
    if high > low:
        _add_up(counts + 3, above - num_between - beyond)
    if NEEDS_ZEROS:
        _add_up(counts + 4, zeros - outside)
    if not IS_DRAWN:
        _add_up(counts + 5, tl.where(largest >= 0x7F800000, 1, 0))


@triton.jit
def _num_negative(x_B: tl.tensor) -> tl.tensor:
    return tl.reduce(_is_negative(x_B), 0, add)


@triton.jit
def _is_negative(x_B: tl.tensor) -> tl.tensor:
    """Return 1 or 0 from the sign's bit: this takes no predicate register, of which a thread has seven."""
    return (x_B.to(tl.uint32, bitcast=True) >> 31).to(tl.int32, bitcast=True)


@triton.jit
def _add_up(count: tl.tensor, num: tl.tensor) -> None:
    if num > 0:
        tl.atomic_add(count, num.to(tl.int64), sem="relaxed")


@triton.jit
def _count_between(
    out: tl.tensor,
    group_P: tl.tensor,
    block_P: tl.tensor,
    start_G: tl.tensor,
    end_G: tl.tensor,
    num_G: tl.tensor,
    prefix_G: tl.tensor,
    total_GK: tl.tensor,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    num_bins: tl.constexpr = 1 << WIDTH
    group = tl.load(group_P + tl.program_id(0))
    start = tl.load(start_G + group)
    num = tl.minimum(tl.load(num_G + group), tl.load(end_G + group) - start)
    at_B = tl.load(block_P + tl.program_id(0)) * BLOCK + tl.arange(0, BLOCK)
    if tl.load(block_P + tl.program_id(0)) * BLOCK < num:
        bits_B = tl.load(out + start + at_B, mask=at_B < num, other=0)
        inside_B = (at_B < num) & ((bits_B >> (SHIFT + WIDTH)) == tl.load(prefix_G + group))
        counts_K = tl.histogram((bits_B >> SHIFT) & (num_bins - 1), num_bins, mask=inside_B)
        row_K = total_GK + group * num_bins + tl.arange(0, num_bins)
        tl.atomic_add(row_K, counts_K.to(tl.int64), mask=counts_K > 0, sem="relaxed")
