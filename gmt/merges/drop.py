"""Drops part of a fine-tuning's delta, once, after the training: the contrast to masking in it.

DARE (Yu et al., arXiv 2311.03099) drops at random and rescales the rest. The GMT paper's "one-off drop" baseline does
not rescale; whether it drops at random or the smallest, it does not say, so both are here.
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
    """Sets a fraction of the entries back to the base's.

    Args:
        name: the word for it in tables.
        fraction: of the entries that are dropped, in [0, 1).
        which: `random`: each with that probability, whatever becomes of the others; `smallest`: of each tensor that
            fraction, by floor as a mask's, with the smallest magnitude of the delta.
        rescale: whether what stays of the delta is divided by 1 - fraction, so that its expectation stays; for
            `random`.
    """

    name: str
    fraction: float
    which: str
    rescale: bool

    num_parents = ONE_PARENT
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.text("merge.name", self.name)
        settings.number("merge.fraction", self.fraction, "must lie in [0, 1)", low=0, high=1)
        settings.one_of("merge.which", self.which, (RANDOM, SMALLEST))
        if settings.boolean("merge.rescale", self.rescale) and self.which != RANDOM:
            raise UserError(
                f"merge.rescale must be false for merge.which={self.which}: only of random entries it keeps a mean"
            )

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return what drops a tensor's entries."""
        import torch

        def dropped(name: str) -> Tensor:
            base, tuned = weights.base(name), weights.tuned(0, name)
            kept = self._kept(tuned - base, f"{seed}/{name}")
            if self.rescale:
                tuned = base + (tuned - base) / (1 - self.fraction)
            return torch.where(kept, tuned, base)

        return dropped

    def _kept(self, delta: Tensor, draw: str) -> Tensor:
        """Return which entries stay; those of a smaller fraction hold those of a larger one."""
        import torch

        from gmt.masking.rule import num_masked

        if self.which == RANDOM:
            number = int.from_bytes(hashlib.sha256(draw.encode()).digest()[:7])
            return torch.rand(delta.shape, generator=torch.Generator().manual_seed(number)) >= self.fraction
        kept = torch.zeros(delta.numel(), dtype=torch.bool)
        num_kept = delta.numel() - num_masked(self.fraction, delta.numel())
        kept[delta.flatten().abs().topk(num_kept, sorted=False).indices] = True
        return kept.view_as(delta)
