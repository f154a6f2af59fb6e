"""TIES (Yadav et al., arXiv 2306.01708): trims each delta, elects a sign, and averages the deltas with that sign.

The merge follows the authors' code (prateeky2806/ties-merging); mergekit differs: it trims each tensor by itself and
gives a sum of 0 the sign +. Departures: all entries that tie at the threshold survive the trim; an entry whose sum is 0
keeps the base's value if the signs of all entries together have no majority.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.merges.protocol import TWO_OR_MORE_PARENTS, Formula, Weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ties:
    """Adds to the base the mean of the deltas that agree in sign.

    Args:
        name: the merge's name in tables.
        keep: the fraction of each parent's delta that survives the trim, in (0, 1]: the entries of the largest
            magnitude over all tensors together.
        scale: the factor of the merged delta, above 0; the paper's lambda.
    """

    name: str
    keep: float
    scale: float

    num_parents = TWO_OR_MORE_PARENTS
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.number("merge.keep", self.keep, "must lie in (0, 1]", low=0, high=1, open_low=True, open_high=False)
        settings.number("merge.scale", self.scale, "must be above 0", low=0, open_low=True)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Find each parent's threshold and the majority sign, and return the function that merges a tensor."""
        import torch

        from gmt.merges.largest import largest

        parents = range(weights.num_parents)
        is_large = [largest(weights, parent, self.keep) for parent in parents]

        def trimmed(parent: int, name: str) -> Tensor:
            delta = weights.delta(parent, name)
            return delta.mul_(is_large[parent](delta))

        def total(name: str) -> Tensor:
            total_delta = trimmed(0, name)
            for parent in parents[1:]:
                total_delta += trimmed(parent, name)
            return total_delta

        majority = sum(int(total(name).sign().sum(dtype=torch.float64)) for name in weights.names)

        def merged(name: str) -> Tensor:
            sign = total(name).sign()
            sign[sign == 0] = 1.0 if majority > 0 else -1.0 if majority < 0 else 0.0
            agreeing, number = weights.base(name).zero_(), weights.base(name).zero_()
            for parent in parents:
                delta = trimmed(parent, name)
                agrees = (delta * sign) > 0
                agreeing += delta * agrees
                number += agrees
            return weights.base(name).add_(agreeing / number.clamp_(min=1), alpha=self.scale)

        return merged
