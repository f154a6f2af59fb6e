"""The scores of tuning runs, and the rule by which the best value is chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from gmt.records.record import RunRecord

_ROUNDING = 1e-9  # forgetting is a difference of means


@dataclass(frozen=True, kw_only=True)
class TrialScore:
    """The scores of a tuning run, or their means over the runs of a value.

    Args:
        target: the target score.
        forgetting: the source score that was lost.
    """

    target: float
    forgetting: float

    def is_within(self, bound: float | None) -> bool:
        """Return whether the forgetting is at most the bound; True without a bound."""
        return bound is None or self.forgetting <= bound + _ROUNDING

    def rank(self, bound: float | None) -> float:
        """Return the number by which the best value is chosen: the largest is best.

        It is the target score if the forgetting is within the bound, else a number below 0, so that the least
        forgetting is best if no value is within the bound.
        """
        return self.target if bound is None or self.is_within(bound) else bound - self.forgetting


WORST = TrialScore(target=0.0, forgetting=1.0)  # for a run that diverged, or whose scores are not finite


def mean_score(scores: Sequence[TrialScore]) -> TrialScore:
    """Return the means of the scores of some runs."""
    return TrialScore(
        target=fmean(score.target for score in scores), forgetting=fmean(score.forgetting for score in scores)
    )


def best_of(ranks: Mapping[float, float]) -> float:
    """Return the value with the largest rank, the first of equals."""
    return max(ranks, key=lambda value: ranks[value])


def trial_score(record: RunRecord) -> TrialScore | None:
    """Return the scores of a tuning run; the worst scores if it diverged, None if it is not done."""
    state = record.state()
    if state == "diverged":
        return WORST
    if state != "done":
        return None
    result = record.result()
    score = TrialScore(target=float(result.after["target"]["mean"]), forgetting=float(result.forgetting))
    return score if math.isfinite(score.target) and math.isfinite(score.forgetting) else WORST
