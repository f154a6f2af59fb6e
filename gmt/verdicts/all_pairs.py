"""Simultaneous intervals of the differences of all pairs of values on the same seeds.

Shapes: N seeds, V values, K pairs, R draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmt.verdicts.intervals import (
    DRAWS,
    FEWEST_FLIPS,
    MOST_AT_ONCE,
    NO_SPREAD,
    Flags,
    Floats,
    Moments,
    Simultaneous,
    limit_and_p,
    moments,
    p_within,
    simultaneous,
)
from gmt.verdicts.question import FEWEST, LEVEL


@dataclass(frozen=True, kw_only=True)
class AllPairs:
    """The differences of all pairs of values.

    Args:
        first_K, second_K: the indices of both values; a difference is the first less the second.
        sample: the moments of the differences.
        intervals: simultaneous intervals of the differences, with their p.
        freedom: the degrees of freedom of the intervals' standard error.
    """

    first_K: np.ndarray
    second_K: np.ndarray
    sample: Moments
    intervals: Simultaneous
    freedom: int

    @property
    def p_range(self) -> float:
        """The probability of a range of means at least as large if all values were equal; NaN without a test."""
        return float(np.fmin.reduce(self.intervals.p_K, initial=np.nan))

    def differ(self, level: float = LEVEL) -> Flags:
        """Return whether each pair is shown to differ."""
        differ_K: Flags = self.intervals.p_K <= level
        return differ_K

    def are_within(self, margin: float, level: float = LEVEL) -> Flags:
        """Return whether each pair is shown to lie within a margin, without correction for the number of pairs.

        If all pairs lie within the margin, the range of the values does too.
        """
        within_K: Flags = p_within(self.sample, margin) < level
        return within_K


def all_pairs(
    scores_NV: Floats, level: float = LEVEL, *, step: float = float("nan"), num_draws: int = DRAWS
) -> AllPairs:
    """Return the differences of all pairs of V values, with simultaneous intervals at a level.

    For at least FEWEST_FLIPS seeds, or for two values, gmt.verdicts.intervals.simultaneous gives the intervals. For
    fewer seeds, all pairs share one standard error, from the residuals of seeds and values, and the critical value is
    that of the studentized range (Tukey, 1953). Tukey's distribution assumes equal deviations: with the deviations in
    docs/ratio_insensitivity.csv, it finds a difference in 8 to 14 of 100 simulated studies without one. The studentized
    range is therefore drawn by a parametric bootstrap, with the estimated deviation of each value (Krishnamoorthy, Lu
    and Mathew, 2007).

    Args:
        scores_NV: the scores; none is missing.
        level: the familywise error rate: the probability that at least one interval misses the true difference.
        step: the change of a difference by one question, for pairs that all differ by the same amount
            (gmt.verdicts.intervals.moments); NaN: unknown.
        num_draws: the number of draws of the studentized range.
    """
    num_seeds, num_values = scores_NV.shape
    first_K, second_K = np.triu_indices(num_values, 1)
    differences_NK = scores_NV[:, first_K] - scores_NV[:, second_K]
    sample, freedom = moments(differences_NK, step), (num_seeds - 1) * (num_values - 1)
    residual_NV = _residuals(scores_NV)
    by_range = FEWEST <= num_seeds < FEWEST_FLIPS and num_values > 2
    if not by_range or np.sqrt((residual_NV**2).sum()) <= NO_SPREAD:
        intervals, freedom = simultaneous(differences_NK, level, step_K=step), num_seeds - 1
    else:
        error = float(np.sqrt((residual_NV**2).sum() / freedom / num_seeds))
        drawn_R = _drawn_ranges(np.sqrt(_variances(residual_NV)), num_seeds, num_draws)
        limit, p_K = limit_and_p(drawn_R, np.abs(sample.mean_K) / error, level)
        half_K = np.where(sample.is_equal_K, 0.0, limit * error)
        intervals = Simultaneous(half_K=half_K, p_K=p_K, is_by_flips=False)
    return AllPairs(first_K=first_K, second_K=second_K, sample=sample, intervals=intervals, freedom=freedom)


def p_alike(differences_NG: Floats, level: float = LEVEL, *, step: float = float("nan")) -> float:
    """Return the p of the hypothesis that a pair's difference is the same on all G tasks.

    Only seeds that all tasks have are used, so all pairs of tasks are compared on the same seed. The result is NaN for
    one task, or for fewer than FEWEST seeds.

    Args:
        differences_NG: the difference on each task; NaN for a seed that a task lacks.
        level: the level that p is compared with; sign flips of few seeds give no smaller p than 1 / 2,049.
        step: see all_pairs.
    """
    return all_pairs(differences_NG[~np.isnan(differences_NG).any(1)], level, step=step).p_range


def _residuals(scores_NV: Floats) -> Floats:
    """Return scores without the means of their seed and of their value."""
    residual_NV: Floats = scores_NV - scores_NV.mean(0) - scores_NV.mean(1, keepdims=True) + scores_NV.mean()
    return residual_NV


def _variances(residual_NV: Floats) -> Floats:
    """Return the variance of each value over seeds, without the part that all values of a seed share (Grubbs, 1948)."""
    num_seeds, num_values = residual_NV.shape
    square_V = (residual_NV**2).sum(0) / (num_seeds - 1)
    shared = square_V.sum() / (num_values * (num_values - 1))
    variance_V: Floats = np.maximum(num_values / (num_values - 2) * (square_V - shared), 0.0)
    return variance_V


def _drawn_ranges(deviation_V: Floats, num_seeds: int, num_draws: int) -> Floats:
    """Return the sorted studentized ranges of R simulated studies whose values all have the same mean."""
    num_values, rng, ranges = len(deviation_V), np.random.default_rng(0), []
    freedom = (num_seeds - 1) * (num_values - 1)
    num_at_once = max(MOST_AT_ONCE // (num_seeds * num_values), 1)
    for start in range(0, num_draws, num_at_once):
        drawn_RNV = rng.normal(size=(min(num_at_once, num_draws - start), num_seeds, num_values)) * deviation_V
        mean_RV = drawn_RNV.mean(1)
        drawn_RNV -= mean_RV[:, None]
        squares_R = (drawn_RNV**2).sum((1, 2)) - num_values * (drawn_RNV.mean(2) ** 2).sum(1)
        ranges.append(np.ptp(mean_RV, axis=1) / np.sqrt(squares_R / freedom / num_seeds))
    return np.sort(np.concatenate(ranges))
