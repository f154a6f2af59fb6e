"""Grafting (Panigrahi et al., arXiv 2302.06600): a few entries take their tuned values, the others the base's.

The few entries have the largest |delta| over all tensors together, which is the paper's initial mask. Departure: the
paper then optimizes the mask, and this merge does not.
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
    """Takes the tuned values of the entries with the largest delta, and the base's values of all others.

    Args:
        name: the merge's name in tables.
        keep: the fraction of entries to graft, in (0, 1].
    """

    name: str
    keep: float

    num_parents = ONE_PARENT
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.text("merge.name", self.name)
        settings.number("merge.keep", self.keep, "must lie in (0, 1]", low=0, high=1, open_low=True, open_high=False)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Find the threshold, and return the function that grafts a tensor."""
        import torch

        from gmt.merges.largest import largest

        is_large = largest(weights, 0, self.keep)

        def grafted(name: str) -> Tensor:
            return torch.where(is_large(weights.delta(0, name)), weights.tuned(0, name), weights.base(name))

        return grafted
