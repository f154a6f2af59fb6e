"""Settings of early stopping by Ray Tune's schedulers. Does not import Ray, since plans read the settings too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

_NEVER = 10**9  # steps; a run ends by itself


@dataclass(frozen=True, kw_only=True)
class Asha:
    """Asynchronous successive halving (arXiv 1810.05934).

    Args:
        first_rung_steps: the number of optimizer steps before a run can be stopped.
        reduction_factor: at each rung one of this many runs continues, and the next rung comes after this many times as
            many steps.
    """

    first_rung_steps: int
    reduction_factor: float

    def __post_init__(self) -> None:
        settings.integer("search.first_rung_steps", self.first_rung_steps, low=1)
        settings.number("search.reduction_factor", self.reduction_factor, "must be above 1", low=1, open_low=True)

    def scheduler(self) -> TrialScheduler:
        """Return Tune's scheduler."""
        from ray.tune.schedulers import AsyncHyperBandScheduler

        return AsyncHyperBandScheduler(
            time_attr="step",
            metric="score",
            mode="max",
            max_t=_NEVER,
            grace_period=self.first_rung_steps,
            reduction_factor=self.reduction_factor,
        )


@dataclass(frozen=True, kw_only=True)
class Median:
    """The median stopping rule (Golovin et al., KDD 2017, section 3.2.2).

    Args:
        first_steps: the number of optimizer steps before a run can be stopped.
        min_runs: the number of other runs that must have reached the same step.
    """

    first_steps: int
    min_runs: int

    def __post_init__(self) -> None:
        settings.integer("search.first_steps", self.first_steps, low=1)
        settings.integer("search.min_runs", self.min_runs, low=1)

    def scheduler(self) -> TrialScheduler:
        """Return Tune's scheduler."""
        from ray.tune.schedulers import MedianStoppingRule

        return MedianStoppingRule(
            time_attr="step",
            metric="score",
            mode="max",
            grace_period=self.first_steps,
            min_samples_required=self.min_runs,
        )
