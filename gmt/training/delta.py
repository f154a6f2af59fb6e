"""The distance of a model's weights from its base's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Delta:
    """The difference between a model's weights and its base's, tied weights counted once.

    Args:
        moved_fraction: the fraction of the base's entries that differ, in [0, 1].
        norm: the Euclidean norm of the difference over all entries; None if the model lacks a weight of the base.
        relative_norm: the same, divided by the norm of the base's weights; None for a base of zeros too.
    """

    moved_fraction: float
    norm: float | None
    relative_norm: float | None


@torch.no_grad()
def delta_of(trained: PreTrainedModel | Mapping[str, Tensor], base: PreTrainedModel) -> Delta:
    """Return how far a model has moved from its base; sums are computed in float64.

    Args:
        trained: the model, or its parameters by their names in the base; all entries of a missing parameter count as
            moved.
        base: the base as it was loaded.
    """
    parameters = dict(trained.named_parameters()) if isinstance(trained, nn.Module) else trained
    moved = total = num_missing = 0
    squares = squares_of_base = 0.0
    for name, before in base.named_parameters():
        total += before.numel()
        squares_of_base += _sum_of_squares(before)
        if (after := parameters.get(name)) is None:
            moved += before.numel()
            num_missing += 1
            continue
        differs = after.cpu() != before.to(after.dtype)
        if number := int(differs.sum()):
            moved += number
            squares += _sum_of_squares(after.cpu().float() - before.to(after.dtype).float())
    norm, of_base = math.sqrt(squares), math.sqrt(squares_of_base)
    return Delta(
        moved_fraction=moved / total,
        norm=None if num_missing else norm,
        relative_norm=None if num_missing or not of_base else norm / of_base,
    )


def _sum_of_squares(tensor: Tensor) -> float:
    return float(tensor.float().square().sum(dtype=torch.float64))
