"""Fine-tuning transfer (Lin et al., arXiv 2503.20110): adds the delta of a training from one base to another base.

As in the authors' code (pjlintw/finetuning-transfer), added rows of a larger vocabulary have a delta of 0. Departures:
differences are computed in float32 instead of float64, and the sum is rounded once, to the model's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

from gmt import settings
from gmt.merges.protocol import ONE_PARENT, Formula, Weights


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Adds scale times the parent's delta to the run's own base.

    Args:
        name: the merge's name in tables.
        scale: the factor of the delta, above 0.
    """

    name: str
    scale: float

    num_parents = ONE_PARENT
    takes_other_base = True

    def __post_init__(self) -> None:
        settings.number("merge.scale", self.scale, "must be above 0", low=0, open_low=True)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return the sum."""
        return lambda name: weights.base(name).add(weights.delta(0, name), alpha=self.scale)
