"""Triton kernels for CUDA that mark kept entries, or zero or restore the others, for many tensors in one launch.

Each kernel writes whole tensors, since writing whole sectors of memory takes less time than writing scattered entries.

Shape suffixes: P programs; G groups, each with one threshold; F numbers of a piece; T pieces; B entries of a block; N
entries of a tensor, flattened.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmt.masking.rule import Draw, Selection, to_device
from gmt.masking.triton_kernels import words
from gmt.masking.triton_tables import Piece, Pieces, bits_of, block_of, by_kind, launch_over

BLOCK = 4096
ScoresOrDrawn = tuple[Tensor, Draw | None]
"""A contiguous tensor of scores, shape [N], and None; or the tensor that a draw masks, and the draw."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds, in bits, of the scores whose entries are kept, for G groups, on the device of the scores.

    Args:
        lowest_G, highest_G: the lowest and the highest kept score; int64 of shape [G].
        hold: int64 of shape [1]; 0 if the bounds are not valid, so that `zero_outside` must change nothing.
    """

    lowest_G: Tensor
    highest_G: Tensor
    hold: Tensor


def bounds_of(selections: Sequence[Selection], device: torch.device) -> Bounds:
    """Return the bounds of selections, each of which is a group."""
    num = len(selections)
    numbers = to_device([*(s.lowest for s in selections), *(s.highest for s in selections), 1], device)
    return Bounds(lowest_G=numbers[:num], highest_G=numbers[num:-1], hold=numbers[-1:])


def zero_outside(tensors: Sequence[ScoresOrDrawn], groups: Sequence[int], bounds: Bounds) -> None:
    """Zero the masked entries of the scores, or of the tensors that draws mask, in place.

    Args:
        tensors: scores on one device.
        groups: for each of them, the index of its bounds.
        bounds: the bounds of all groups.
    """
    for alike in _by_kind(tensors):
        addresses = [piece.scores.data_ptr() for piece in alike]
        own = [[groups[piece.at[0]] for piece in alike], addresses]
        arguments = (bounds.lowest_G, bounds.highest_G, bounds.hold, words(alike[0].scores)[:0])
        launch_over(_zero_outside, alike, own, *arguments, step=BLOCK, BLOCK=BLOCK)


def keep_inside(tensors: Sequence[ScoresOrDrawn], bounds: Bounds, keep: Sequence[Tensor]) -> None:
    """Write masks of the kept entries into bool tensors of the same sizes; each tensor of scores has its own bounds."""
    for alike in _by_kind(tensors):
        own = [[piece.at[0] for piece in alike], [keep[piece.at[0]].data_ptr() for piece in alike]]
        arguments = (bounds.lowest_G, bounds.highest_G)
        launch_over(_keep_inside, alike, own, *arguments, step=BLOCK, BLOCK=BLOCK)


def restore_unkept(tensors: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Restore the entries that are not kept to their earlier values, in place.

    Args:
        tensors: float tensors, their earlier values in the same dtype, and the bool masks of kept entries; all
            contiguous and of shape [N].
    """
    pieces = [Piece(scores=now_N, draw=None, size=now_N.numel(), at=(i,)) for i, (now_N, _, _) in enumerate(tensors)]
    for alike in by_kind(pieces):
        own = [[tensors[piece.at[0]][which].data_ptr() for piece in alike] for which in (1, 2)]
        launch_over(_restore_unkept, alike, own, step=BLOCK, BLOCK=BLOCK)


def _by_kind(tensors: Sequence[ScoresOrDrawn]) -> list[Pieces]:
    return by_kind([Piece(scores=x_N, draw=draw, size=x_N.numel(), at=(i,)) for i, (x_N, draw) in enumerate(tensors)])


@triton.jit
def _keeps(
    table_FT: tl.tensor,
    lowest_G: tl.tensor,
    highest_G: tl.tensor,
    piece: tl.tensor,
    num_pieces: tl.tensor,
    first: tl.tensor,
    at_B: tl.tensor,
    inside_B: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> tl.tensor:
    bits_B = bits_of(table_FT, piece, num_pieces, first, at_B, inside_B, TYPE, IS_DRAWN, IS_ALIGNED)
    group = tl.load(table_FT + 5 * num_pieces + piece)
    return (bits_B >= tl.load(lowest_G + group)) & (bits_B <= tl.load(highest_G + group))


@triton.jit
def _zero_outside(
    table_FT: tl.tensor,
    piece_P: tl.tensor,
    block_P: tl.tensor,
    lowest_G: tl.tensor,
    highest_G: tl.tensor,
    hold: tl.tensor,
    like: tl.tensor,
    num_pieces: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    piece, first, left = block_of(table_FT, piece_P, block_P, num_pieces, IS_ALIGNED, BLOCK)
    at_B, left = tl.arange(0, BLOCK), tl.where(tl.load(hold) != 0, left, 0)
    keep_B = _keeps(
        table_FT, lowest_G, highest_G, piece, num_pieces, first, at_B, at_B < left, TYPE, IS_DRAWN, IS_ALIGNED
    )
    x_N = tl.load(table_FT + 6 * num_pieces + piece).to(tl.pointer_type(like.dtype.element_ty))
    if IS_ALIGNED:
        x_N = tl.multiple_of(x_N, 16)
    x_B = tl.load(x_N + first + at_B, mask=at_B < left, other=0)
    tl.store(x_N + first + at_B, tl.where(keep_B, x_B, 0).to(x_B.dtype), mask=at_B < left)


@triton.jit
def _keep_inside(
    table_FT: tl.tensor,
    piece_P: tl.tensor,
    block_P: tl.tensor,
    lowest_G: tl.tensor,
    highest_G: tl.tensor,
    num_pieces: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    piece, first, left = block_of(table_FT, piece_P, block_P, num_pieces, IS_ALIGNED, BLOCK)
    at_B = tl.arange(0, BLOCK)
    keep_B = _keeps(
        table_FT, lowest_G, highest_G, piece, num_pieces, first, at_B, at_B < left, TYPE, IS_DRAWN, IS_ALIGNED
    )
    out_N = tl.load(table_FT + 6 * num_pieces + piece).to(tl.pointer_type(tl.int8))
    tl.store(out_N + first + at_B, keep_B.to(tl.int8), mask=at_B < left)


@triton.jit
def _restore_unkept(
    table_FT: tl.tensor,
    piece_P: tl.tensor,
    block_P: tl.tensor,
    num_pieces: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    piece, first, left = block_of(table_FT, piece_P, block_P, num_pieces, IS_ALIGNED, BLOCK)
    at_B = tl.arange(0, BLOCK)
    now_N = tl.load(table_FT + piece).to(tl.pointer_type(TYPE))
    before_N = tl.load(table_FT + 5 * num_pieces + piece).to(tl.pointer_type(TYPE))
    keep_N = tl.load(table_FT + 6 * num_pieces + piece).to(tl.pointer_type(tl.int8))
    if IS_ALIGNED:
        now_N = tl.multiple_of(now_N, 16)
    at_B += first
    inside_B = at_B < first + left
    now_B = tl.load(now_N + at_B, mask=inside_B, other=0)
    before_B = tl.load(before_N + at_B, mask=inside_B, other=0)
    keep_B = tl.load(keep_N + at_B, mask=inside_B, other=1)
    tl.store(now_N + at_B, tl.where(keep_B != 0, now_B, before_B), mask=inside_B)
