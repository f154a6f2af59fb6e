"""Grafting (Panigrahi et al., arXiv 2302.06600): a few entries take their tuned values, the others the base's.

The entries with the largest |delta| over all tensors together are the initial mask m. With `num_steps` a mask is learnt
from it, as in the authors' code (`src/graft_trainer.py`). An entry's share of its delta is m + (1 - 2 m) s, where
s = sigmoid(S - 10). S follows plain SGD: S -= rate (1 - 2 m) g delta s (1 - s), with g the gradient at the weights in
between. In the end the shares are rounded, so that an entry changes sides where S > 10. Departures: S begins at 0, and
the authors draw it from [0, 1); the last mask counts, and they keep the best; S takes a step for each mini-batch of 8,
and the authors take one step an epoch, on a gradient averaged over many mini-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError
from gmt.merges.protocol import ONE_PARENT, Formula, Gradients, Weights

if TYPE_CHECKING:
    from torch import Tensor

_BIAS = 10.0  # the authors'
_RATE = 1e7  # the authors'; the sigmoid's slope is 4.5e-5 where S begins
_BATCH_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class Graft:
    """Takes the tuned values of some entries, and the base's values of all others.

    Args:
        name: the merge's name in tables.
        keep: the fraction of entries with the largest delta, in (0, 1], that are grafted or that learning begins with.
        num_steps: mini-batches that the mask is learnt from; 0 for none.
        batch_size: training rows of a mini-batch.
        learning_rate: the learning rate of the mask's scores.
    """

    name: str
    keep: float
    num_steps: int = settings.neutral(0)
    batch_size: int = settings.neutral(_BATCH_SIZE)
    learning_rate: float = settings.neutral(_RATE)

    num_parents = ONE_PARENT
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.number("merge.keep", self.keep, "must lie in (0, 1]", low=0, high=1, open_low=True, open_high=False)
        settings.integer("merge.num_steps", self.num_steps, low=0)
        settings.integer("merge.batch_size", self.batch_size, low=1)
        settings.number("merge.learning_rate", self.learning_rate, "must be above 0", low=0, open_low=True)
        for setting, value, neutral in (
            ("batch_size", self.batch_size, _BATCH_SIZE),
            ("learning_rate", self.learning_rate, _RATE),
        ):
            if not self.num_steps and value != neutral:
                raise UserError(f"merge.{setting} must be {neutral:g} where merge.num_steps=0, got {value}")

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Find the threshold, and return the function that grafts a tensor."""
        from gmt.merges.largest import largest

        is_large = largest(weights, 0, self.keep)
        return lambda name: _grafted(weights, name, is_large(weights.delta(0, name)))

    def learnt_formula(self, weights: Weights, gradients: Gradients) -> Formula:
        """Learn the mask, and return the function that grafts a tensor."""
        import torch

        from gmt.merges.largest import largest

        is_large = largest(weights, 0, self.keep)
        masks = {name: is_large(weights.delta(0, name)) for name in weights.names}
        scores = {name: torch.zeros(mask.shape) for name, mask in masks.items()}

        def between(name: str) -> Tensor:
            share = torch.sigmoid(scores[name] - _BIAS)
            share = torch.where(masks[name], 1 - share, share)
            return weights.base(name) + share * weights.delta(0, name)

        for _ in range(self.num_steps):
            gradient_of = gradients(between)
            for name, score in scores.items():
                slope = torch.sigmoid(score - _BIAS)
                slope = slope * (1 - slope) * torch.where(masks[name], -1.0, 1.0)
                score -= self.learning_rate * gradient_of[name] * weights.delta(0, name) * slope
        return lambda name: _grafted(weights, name, masks[name] ^ (scores[name] > _BIAS))


def _grafted(weights: Weights, name: str, mask: Tensor) -> Tensor:
    import torch

    return torch.where(mask, weights.tuned(0, name), weights.base(name))
