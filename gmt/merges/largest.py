"""The largest entries of a delta, over all of a model's tensors together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import torch

from gmt.errors import UserError
from gmt.masking.rule import CHUNK, Scores
from gmt.masking.selection import select

if TYPE_CHECKING:
    from torch import Tensor

    from gmt.merges.protocol import Weights


def largest(weights: Weights, parent: int, keep: float) -> Callable[[Tensor], Tensor]:
    """Return the function that maps a tensor's delta to a bool mask of the parent's largest entries.

    Args:
        weights: the weights of base and parents; each delta is computed again whenever it is needed.
        parent: the parent's number, counted from 0.
        keep: the fraction of all entries that counts as largest, by magnitude, in (0, 1]. All ties at the threshold
            count; zeros never do.

    Raises:
        UserError: a weight is NaN or Inf.
    """
    scores = [
        Scores(
            chunks=partial(_chunks, weights, parent, name),
            dtype=torch.float32,
            num_entries=weights.base(name).numel(),
            shards=None,
            device=torch.device("cpu"),
        )
        for name in weights.names
    ]
    (selection,) = select([scores], float(1 - Fraction(repr(float(keep)))))
    if not selection.is_finite:
        raise UserError("a merge needs parents whose weights are finite numbers, got NaN or Inf")
    return lambda delta: selection.keeps(delta.abs().view(torch.int32))


def _chunks(weights: Weights, parent: int, name: str) -> Iterator[Tensor]:
    delta_N = weights.delta(parent, name).flatten()
    yield from (delta_N[start : start + CHUNK] for start in range(0, delta_N.numel(), CHUNK))
