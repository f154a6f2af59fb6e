"""Kernels that go over the chunks of many tensors in one launch, on CUDA in Triton: a launch costs as much as reading
some millions of entries, and a model has hundreds of tensors.

select_by_bracket.py and entries.py import this only where there are CUDA tensors and Triton.

Shape suffixes: T chunks; P programs, each of some entries of one chunk; G groups; S samples; F figures; B entries of a
block; N entries of a chunk, flattened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmt.masking.rule import Draw, Selection, to_device
from gmt.masking.triton_kernels import WORDS, add, hashed_bits, launch, magnitude_bits, words

BLOCK = 8192  # entries of a program that splits or zeroes
SLOTS = 256  # samples of a program
PART = 2048  # entries of a program that counts scores between two bounds
NUM_WARPS = 8
_ALIGNED = 16  # bytes, and entries: what Triton needs to know to read more than one entry at a time
_TYPES = {torch.int32: tl.int32, torch.int16: tl.int16, torch.float16: tl.float16}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A chunk of scores: a tensor of shape [N] as the kernels of triton_kernels.py take it, or a draw.

    Args:
        scores: the tensor; for a draw, any tensor on its device, of which no entry is read.
        draw: which hashes the scores are, if they are drawn.
        size: entries.
        numbers: of this chunk, for the kernel.
    """

    scores: Tensor
    draw: Draw | None
    size: int
    numbers: Sequence[int]


def by_kind(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return the pieces that one launch can go over together, those that are empty left out."""
    alike: dict[object, list[Piece]] = {}
    for piece in pieces:
        if piece.size:
            assert piece.scores.is_contiguous()
            kind = (piece.scores.device, piece.draw is None, WORDS[piece.scores.dtype], _is_aligned(piece))
            alike.setdefault(kind, []).append(piece)
    return list(alike.values())


def _is_aligned(piece: Piece) -> bool:
    return piece.size % _ALIGNED == 0 and piece.scores.data_ptr() % _ALIGNED == 0


def _launch(
    kernel: Any,
    pieces: Sequence[Piece],
    counts: Sequence[int],
    *arguments: Tensor,
    step: int,
) -> None:
    """Launch a kernel over pieces of one kind: as many programs for each as its count takes, `step` a program."""
    first, device = pieces[0], pieces[0].scores.device
    addresses = [0 if piece.draw else piece.scores.data_ptr() for piece in pieces]
    starts = [piece.draw.start if piece.draw else 0 for piece in pieces]
    keys = [[piece.draw.key[i] if piece.draw else 0 for piece in pieces] for i in (0, 1)]
    sizes = [piece.size for piece in pieces]
    columns = [addresses, sizes, starts, *keys, *zip(*(piece.numbers for piece in pieces), strict=True)]
    table_FT = to_device(list(chain(*columns)), device).view(len(columns), -1)
    blocks = [-(-count // step) for count in counts]
    if not (programs := sum(blocks)):
        return
    chunks_T = torch.arange(len(pieces), device=device)
    chunk_P = torch.repeat_interleave(chunks_T, to_device(blocks, device), output_size=programs)
    block_P = torch.arange(programs, device=device) - to_device(_before(blocks), device)[chunk_P]
    launch(
        kernel,
        programs,
        table_FT,
        chunk_P,
        block_P,
        *arguments,
        len(pieces),
        TYPE=_TYPES[torch.int32 if first.draw else WORDS[first.scores.dtype]],
        IS_DRAWN=first.draw is not None,
        IS_ALIGNED=_is_aligned(first),
        BLOCK=step,
        num_warps=min(NUM_WARPS, max(step // 128, 1)),
    )


def _before(counts: Sequence[int]) -> list[int]:
    """Return the sum of the counts before each."""
    return list(accumulate(counts, initial=0))[:-1]


def sample(pieces: Sequence[Piece], out: Tensor) -> None:
    """Write the bits of some entries of each piece, drawn with repeats by a fixed hash, or of all of them in order.

    Args:
        pieces: of one kind; the numbers of each are where its first sample goes in `out`, and how many it has: its
            size for all entries.
        out: int32, contiguous.
    """
    _launch(_sample, pieces, [piece.numbers[1] for piece in pieces], out, step=SLOTS)


def split(pieces: Sequence[Piece], low_G: Tensor, high_G: Tensor, counts_GF: Tensor, out: Tensor) -> None:
    """Count each group's magnitudes below, at and between two bounds, and write out those between.

    Args:
        pieces: of one kind; the numbers of each are its group, and where the room of the group begins and ends.
        low_G, high_G: bounds in bits, int64.
        counts_GF: int64, added to: magnitudes below the lower bound, at it, between the two, at the higher bound if it
            is another one, zeros, and NaN and Inf.
        out: int32, flat: the room for the bits of those between.
    """
    _launch(_split, pieces, [piece.size for piece in pieces], low_G, high_G, counts_GF, out, step=BLOCK)


def zero_outside(every: Sequence[tuple[Tensor, Draw | None, Selection]]) -> None:
    """Zero, in place, the entries of float tensors that do not stay.

    Args:
        every: tensors of shape [N], contiguous; which hashes are their scores, or None if they are scores themselves;
            and which scores stay.
    """
    pieces = [
        Piece(scores=x_N, draw=draw, size=len(x_N), numbers=(selection.lowest, selection.highest, x_N.data_ptr()))
        for x_N, draw, selection in every
    ]
    for alike in by_kind(pieces):
        _launch(_zero_outside, alike, [piece.size for piece in alike], words(alike[0].scores)[:0], step=BLOCK)


def count_between(
    out: Tensor, rooms: Sequence[tuple[int, int]], num_G: Tensor, prefix_G: Tensor, shift: int, width: int
) -> Tensor:
    """Count a bit field of the scores that `split` wrote out, of those whose higher bits are known.

    Args:
        out: int32, flat.
        rooms: where each group's begins and ends.
        num_G: how many were written, int64; more than there is room for are passed over.
        prefix_G, shift, width: as `field_counts` of triton_kernels.py has them.

    Returns:
        int64 of shape [G, 2^width].
    """
    total_GK = torch.zeros(len(rooms), 1 << width, dtype=torch.int64, device=out.device)
    blocks = [-(-(end - start) // PART) for start, end in rooms]
    programs = sum(blocks)
    if programs:
        groups_G = torch.arange(len(rooms), device=out.device)
        group_P = torch.repeat_interleave(groups_G, to_device(blocks, out.device), output_size=programs)
        block_P = torch.arange(programs, device=out.device) - to_device(_before(blocks), out.device)[group_P]
        start_G, end_G = (to_device([room[i] for room in rooms], out.device) for i in (0, 1))
        tables = (group_P, block_P, start_G, end_G, num_G, prefix_G, total_GK)
        launch(_count_between, programs, out, *tables, SHIFT=shift, WIDTH=width, BLOCK=PART, num_warps=4)
    return total_GK


@triton.jit
def _bits(
    table_FT: tl.tensor,
    chunk: tl.tensor,
    num_chunks: tl.tensor,
    at_B: tl.tensor,
    inside_B: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> tl.tensor:
    """The magnitudes' bits of entries of a chunk; zero where there are none."""
    if IS_DRAWN:
        start = tl.load(table_FT + 2 * num_chunks + chunk)
        key0 = tl.load(table_FT + 3 * num_chunks + chunk).to(tl.int32)
        key1 = tl.load(table_FT + 4 * num_chunks + chunk).to(tl.int32)
        bits_B = hashed_bits((at_B + start).to(tl.int32), key0, key1)
        return tl.where(inside_B, bits_B, 0)
    x_N = tl.load(table_FT + chunk).to(tl.pointer_type(TYPE))
    if IS_ALIGNED:
        x_N = tl.multiple_of(x_N, 16)
    return magnitude_bits(tl.load(x_N + at_B, mask=inside_B, other=0))


@triton.jit
def _block(
    table_FT: tl.tensor,
    chunk_P: tl.tensor,
    block_P: tl.tensor,
    num_chunks: tl.tensor,
    IS_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """This program's chunk, the indices of its entries in it, and which of these are inside."""
    chunk = tl.load(chunk_P + tl.program_id(0))
    size = tl.load(table_FT + num_chunks + chunk)
    if IS_ALIGNED:
        size = tl.multiple_of(size, 16)
    at_B = tl.load(block_P + tl.program_id(0)) * BLOCK + tl.arange(0, BLOCK)
    return chunk, at_B, at_B < size


@triton.jit
def _sample(
    table_FT: tl.tensor,
    chunk_P: tl.tensor,
    block_P: tl.tensor,
    out: tl.tensor,
    num_chunks: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    chunk = tl.load(chunk_P + tl.program_id(0))
    size = tl.load(table_FT + num_chunks + chunk)
    first_slot = tl.load(table_FT + 5 * num_chunks + chunk)
    count = tl.load(table_FT + 6 * num_chunks + chunk)
    slot_B = tl.load(block_P + tl.program_id(0)) * BLOCK + tl.arange(0, BLOCK)
    drawn_B = hashed_bits((slot_B + (chunk << 20)).to(tl.int32) & 0x7FFFFFFF, 0x2545F491, 0x4F6CDD1D)
    at_B = tl.where(count >= size, slot_B, (drawn_B.to(tl.int64) * size) >> 31)
    inside_B = slot_B < count
    bits_B = _bits(table_FT, chunk, num_chunks, at_B, inside_B, TYPE, IS_DRAWN, False)
    tl.store(out + first_slot + slot_B, bits_B, mask=inside_B)


@triton.jit
def _split(
    table_FT: tl.tensor,
    chunk_P: tl.tensor,
    block_P: tl.tensor,
    low_G: tl.tensor,
    high_G: tl.tensor,
    counts_GF: tl.tensor,
    out: tl.tensor,
    num_chunks: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    chunk, at_B, inside_B = _block(table_FT, chunk_P, block_P, num_chunks, IS_ALIGNED, BLOCK)
    bits_B = _bits(table_FT, chunk, num_chunks, at_B, inside_B, TYPE, IS_DRAWN, IS_ALIGNED)
    group = tl.load(table_FT + 5 * num_chunks + chunk)
    low, high = tl.load(low_G + group).to(tl.int32), tl.load(high_G + group).to(tl.int32)
    counts = counts_GF + 6 * group
    is_high_B = (bits_B == high) & (high > low)
    between_B = (inside_B & (bits_B > low) & (bits_B < high)).to(tl.int32)
    # Four counts, each below 2^15, in the bits of one number, so that they are added up at once.
    few_B = (
        _shifted(bits_B < low, 0) + _shifted(bits_B == low, 15) + _shifted(is_high_B, 30) + _shifted(bits_B == 0, 45)
    )
    few = tl.reduce(tl.where(inside_B, few_B, 0), 0, add)
    _add_up(counts, few & 0x7FFF)
    _add_up(counts + 1, (few >> 15) & 0x7FFF)
    _add_up(counts + 3, (few >> 30) & 0x7FFF)
    _add_up(counts + 4, (few >> 45) & 0x7FFF)
    more = tl.reduce(between_B + ((inside_B & (bits_B >= 0x7F800000)).to(tl.int32) << 15), 0, add)
    _add_up(counts + 5, (more >> 15).to(tl.int64))
    num = more & 0x7FFF
    if num > 0:
        first = tl.atomic_add(counts + 2, num.to(tl.int64), sem="relaxed")
        start = tl.load(table_FT + 6 * num_chunks + chunk)
        end = tl.load(table_FT + 7 * num_chunks + chunk)
        to_B = start + first + tl.associative_scan(between_B, 0, add) - between_B
        tl.store(out + to_B, bits_B, mask=(between_B != 0) & (to_B < end))


@triton.jit
def _shifted(is_B: tl.tensor, SHIFT: tl.constexpr) -> tl.tensor:
    return is_B.to(tl.int64) << SHIFT


@triton.jit
def _add_up(count: tl.tensor, num: tl.tensor) -> None:
    if num > 0:
        tl.atomic_add(count, num, sem="relaxed")


@triton.jit
def _zero_outside(
    table_FT: tl.tensor,
    chunk_P: tl.tensor,
    block_P: tl.tensor,
    like: tl.tensor,
    num_chunks: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Writes every entry: whole sectors cost less than the scattered ones that are zeroed."""
    chunk, at_B, inside_B = _block(table_FT, chunk_P, block_P, num_chunks, IS_ALIGNED, BLOCK)
    bits_B = _bits(table_FT, chunk, num_chunks, at_B, inside_B, TYPE, IS_DRAWN, IS_ALIGNED)
    lowest, highest = tl.load(table_FT + 5 * num_chunks + chunk), tl.load(table_FT + 6 * num_chunks + chunk)
    keep_B = (bits_B >= lowest) & (bits_B <= highest)
    x_N = tl.load(table_FT + 7 * num_chunks + chunk).to(tl.pointer_type(like.dtype.element_ty))
    if IS_ALIGNED:
        x_N = tl.multiple_of(x_N, 16)
    x_B = tl.load(x_N + at_B, mask=inside_B, other=0)
    tl.store(x_N + at_B, tl.where(keep_B, x_B, 0).to(x_B.dtype), mask=inside_B)


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
