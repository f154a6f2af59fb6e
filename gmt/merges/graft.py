"""Grafting (Panigrahi et al., arXiv 2302.06600): the tuned values of few entries in the base.

The entries are those with the largest |delta| over all tensors together, which is where the paper's learning of the
mask begins. Departure: the mask is not learned on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.merges.protocol import ONE_PARENT, Formula, Weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Graft:
    """Takes the largest entries of the delta as they were trained, and all others as the base has them.

    Args:
        name: the word for it in tables.
        keep: the fraction of entries that is grafted, in (0, 1].
    """

    name: str
    keep: float

    num_parents = ONE_PARENT
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.text("merge.name", self.name)
        settings.number("merge.keep", self.keep, "must lie in (0, 1]", low=0, high=1, open_low=True, open_high=False)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Find the threshold, and return what grafts a tensor."""
        import torch

        from gmt.merges.largest import largest

        kept = largest(weights, 0, self.keep)

        def grafted(name: str) -> Tensor:
            return torch.where(kept(weights.delta(0, name)), weights.tuned(0, name), weights.base(name))

        return grafted
