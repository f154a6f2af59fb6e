"""Drops part of a fine-tuning's delta once, after the training; a baseline for masking during the training.

DARE (Yu et al., arXiv 2311.03099) drops random entries and rescales the others. The GMT paper's "one-off drop" baseline
does not rescale. The paper does not say whether that baseline drops random or the smallest entries, so both are here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError
from gmt.merges.protocol import ONE_PARENT, Formula, Weights

if TYPE_CHECKING:
    from torch import Tensor

RANDOM, SMALLEST = "random", "smallest"


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Resets a fraction of the entries to the base's values.

    Args:
        name: the merge's name in tables.
        fraction: the fraction of entries to drop, in [0, 1).
        which: `random` drops each entry independently with probability `fraction`; `smallest` drops in each tensor the
            entries with the smallest magnitude of the delta, and rounds their number down, as a mask does.
        rescale: whether the remaining delta is divided by 1 - fraction, which keeps its expectation; only for `random`.
    """

    name: str
    fraction: float
    which: str
    rescale: bool

    num_parents = ONE_PARENT
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.number("merge.fraction", self.fraction, "must lie in [0, 1)", low=0, high=1)
        settings.one_of("merge.which", self.which, (RANDOM, SMALLEST))
        if settings.boolean("merge.rescale", self.rescale) and self.which != RANDOM:
            raise UserError(
                f"merge.rescale must be false for merge.which={self.which}: it keeps the mean only of a random drop"
            )

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return the function that drops a tensor's entries."""
        import torch

        def dropped(name: str) -> Tensor:
            base, tuned = weights.base(name), weights.tuned(0, name)
            staying = self._staying(tuned - base, f"{seed}/{name}")
            if self.rescale:
                tuned = base + (tuned - base) / (1 - self.fraction)
            return torch.where(staying, tuned, base)

        return dropped

    def _staying(self, delta: Tensor, draw: str) -> Tensor:
        """Return a bool mask of the entries that stay; it includes the entries that stay at any larger fraction."""
        import torch

        from gmt.masking.rule import num_masked

        if self.which == RANDOM:
            number = int.from_bytes(hashlib.sha256(draw.encode()).digest()[:7])
            return torch.rand(delta.shape, generator=torch.Generator().manual_seed(number)) >= self.fraction
        staying = torch.zeros(delta.numel(), dtype=torch.bool)
        num_staying = delta.numel() - num_masked(self.fraction, delta.numel())
        staying[delta.flatten().abs().topk(num_staying, sorted=False).indices] = True
        return staying.view_as(delta)
