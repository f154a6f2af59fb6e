"""Launches one Triton kernel for CUDA over pieces of many tensors.

A launch takes as long as reading some millions of entries, and a model has hundreds of tensors.

A table on the device has the address of each piece and the numbers that the kernel needs; each program looks up its
piece and its block of the piece. The kernels are in triton_bracket.py and triton_entries.py, which are imported only
if there are CUDA tensors and Triton.

Shape suffixes: T pieces; P programs, each for some entries of one piece; F numbers of a piece; I items; B entries of a
block; N entries of a piece, flattened.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmt.masking.rule import Draw, to_device
from gmt.masking.triton_kernels import WORDS, hashed_bits, launch, magnitude_bits

NUM_WARPS = 8
_ALIGNED = 16  # addresses in bytes and sizes in entries must be its multiples, so that Triton reads several at a time
_TYPES = {torch.int32: tl.int32, torch.int16: tl.int16, torch.float16: tl.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A piece of a tensor's scores: a tensor of shape [N] in a dtype of WORDS, or a draw.

    Args:
        scores: the tensor; for a draw, any tensor on the device, whose entries are not read.
        draw: the hashes that are the scores, if they are drawn.
        size: the number of entries.
        at: numbers by which the caller identifies the piece; not read here.
    """

    scores: Tensor
    draw: Draw | None
    size: int
    at: tuple[int, ...] = ()


class Pieces(list[Piece]):
    """Pieces of one kind: on one device, of one dtype and alignment, and all drawn or all stored; none is empty."""

    @functools.cached_property
    def is_aligned(self) -> bool:
        """Whether every piece begins and ends at a multiple of _ALIGNED, so that entries can be read together."""
        return _is_aligned(self[0])

    @functools.cached_property
    def columns(self) -> list[list[int]]:
        """The columns of the table that every kernel reads."""
        keys = [[piece.draw.key[i] if piece.draw else 0 for piece in self] for i in (0, 1)]
        addresses = [0 if piece.draw else piece.scores.data_ptr() for piece in self]
        starts = [piece.draw.start if piece.draw else 0 for piece in self]
        return [addresses, [piece.size for piece in self], starts, *keys]


def by_kind(pieces: Sequence[Piece]) -> list[Pieces]:
    """Return the pieces that are not empty, in one list for each kind, so that a launch can cover a list."""
    alike: dict[object, Pieces] = {}
    for piece in pieces:
        if piece.size:
            assert piece.scores.is_contiguous()
            kind = (piece.scores.device, piece.draw is None, WORDS[piece.scores.dtype], _is_aligned(piece))
            alike.setdefault(kind, Pieces()).append(piece)
    return list(alike.values())


def _is_aligned(piece: Piece) -> bool:
    return piece.size % _ALIGNED == 0 and piece.scores.data_ptr() % _ALIGNED == 0


def launch_over(
    kernel: Any,
    pieces: Pieces,
    own: Sequence[Sequence[int]],
    *arguments: Tensor,
    step: int,
    counts: Sequence[int] | None = None,
    **settings: Any,
) -> None:
    """Launch a kernel over pieces of one kind.

    Args:
        kernel: a kernel whose arguments are the table, each program's piece and block, `arguments`, the number of
            pieces, and the settings.
        pieces: pieces of one kind.
        own: the table's columns from index 5 on, which only this kernel reads: a number for each piece.
        arguments: tensors on the device.
        step: the number of entries, or of samples, of a program.
        counts: for a kernel that writes samples, the number of samples of each piece; None: programs work on entries.
        settings: the kernel's compile-time constants and launch options.
    """
    first, device = pieces[0], pieces[0].scores.device
    blocks = [-(-count // step) for count in (pieces.columns[1] if counts is None else counts)]
    if not sum(blocks):
        return
    columns = [*pieces.columns, *own]
    table_FT = to_device(list(chain(*columns)), device).view(len(columns), -1)
    launch(
        kernel,
        sum(blocks),
        table_FT,
        *programs_of(blocks, device),
        *arguments,
        len(pieces),
        TYPE=_TYPES[torch.int32 if first.draw else WORDS[first.scores.dtype]],
        IS_DRAWN=first.draw is not None,
        IS_ALIGNED=pieces.is_aligned,
        **{"num_warps": NUM_WARPS} | settings,
    )


def programs_of(blocks: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each program's item and its block of the item, int64 of shape [P].

    Args:
        blocks: the number of blocks of each item.
        device: the device of the result.
    """
    before = list(accumulate(blocks, initial=0))
    first_I, num_I = to_device([*before[:-1], *blocks], device).view(2, -1)
    item_P = torch.repeat_interleave(num_I, output_size=before[-1])
    return item_P, torch.arange(before[-1], device=device) - first_I[item_P]


@triton.jit
def bits_of(
    table_FT: tl.tensor,
    piece: tl.tensor,
    num_pieces: tl.tensor,
    first: tl.tensor,
    at_B: tl.tensor,
    inside_B: tl.tensor,
    TYPE: tl.constexpr,
    IS_DRAWN: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Return the magnitudes' bits of the entries `first + at_B` of a piece; 0 outside if the scores are not drawn."""
    if IS_DRAWN:
        start = tl.load(table_FT + 2 * num_pieces + piece)
        key0 = tl.load(table_FT + 3 * num_pieces + piece).to(tl.int32)
        key1 = tl.load(table_FT + 4 * num_pieces + piece).to(tl.int32)
        return hashed_bits(((start + first).to(tl.int32) + at_B).to(tl.int32), key0, key1)
    x_N = tl.load(table_FT + piece).to(tl.pointer_type(TYPE))
    if IS_ALIGNED:
        x_N = tl.multiple_of(x_N, 16)
    return magnitude_bits(tl.load(x_N + first + at_B, mask=inside_B, other=0))


@triton.jit
def block_of(
    table_FT: tl.tensor,
    piece_P: tl.tensor,
    block_P: tl.tensor,
    num_pieces: tl.tensor,
    IS_ALIGNED: tl.constexpr,
    STEP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return this program's piece, the index of its first entry in the piece, and the number of its entries."""
    piece = tl.load(piece_P + tl.program_id(0))
    size = tl.load(table_FT + num_pieces + piece)
    first = tl.load(block_P + tl.program_id(0)) * STEP
    left = tl.minimum(size - first, STEP).to(tl.int32)
    if IS_ALIGNED:
        first, left = tl.multiple_of(first, 16), tl.multiple_of(left, 16)
    return piece, first, left
