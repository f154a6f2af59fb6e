"""WiSE-FT (Wortsman et al., arXiv 2109.01903): interpolates linearly between the base and the tuned weights."""

from __future__ import annotations

from dataclasses import dataclass

from gmt import settings
from gmt.merges.protocol import ONE_PARENT, Formula, Weights


@dataclass(frozen=True, kw_only=True)
class WiseFt:
    """Computes (1 - alpha) base + alpha tuned.

    Args:
        name: the merge's name in tables.
        alpha: the share of the tuned weights, in [0, 1]: 0 gives the base and 1 the tuned model, bit for bit.
    """

    name: str
    alpha: float

    num_parents = ONE_PARENT
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.number("merge.alpha", self.alpha, "must lie in [0, 1]", low=0, high=1, open_high=False)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return the interpolation."""
        return lambda name: weights.base(name).lerp(weights.tuned(0, name), self.alpha)
