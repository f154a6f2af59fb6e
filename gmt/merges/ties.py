"""TIES (Yadav et al., arXiv 2306.01708): trim, elect a sign, average those that agree.

As in the authors' code (prateeky2806/ties-merging), and not as in mergekit, which trims each tensor by itself and gives
a sum of 0 the sign +. Departures: entries that tie at the threshold are all kept; an entry whose sum is 0 stays the
base's where the signs of all entries together have no majority either.
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
    """Adds the mean of the deltas that agree in sign to the base.

    Args:
        name: the word for it in tables.
        keep: the fraction of each parent's delta, of the largest magnitude over all tensors together, that is kept; in
            (0, 1].
        scale: what the merged delta is multiplied by; above 0. The paper's lambda.
    """

    name: str
    keep: float
    scale: float

    num_parents = TWO_OR_MORE_PARENTS
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.text("merge.name", self.name)
        settings.number("merge.keep", self.keep, "must lie in (0, 1]", low=0, high=1, open_low=True, open_high=False)
        settings.number("merge.scale", self.scale, "must be above 0", low=0, open_low=True)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Find each parent's threshold and the sign of most entries, and return what merges a tensor."""
        import torch

        from gmt.merges.largest import largest

        parents = range(weights.num_parents)
        kept = [largest(weights, parent, self.keep) for parent in parents]

        def trimmed(parent: int, name: str) -> Tensor:
            delta = weights.delta(parent, name)
            return delta.mul_(kept[parent](delta))

        def total(name: str) -> Tensor:
            found = trimmed(0, name)
            for parent in parents[1:]:
                found += trimmed(parent, name)
            return found

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
