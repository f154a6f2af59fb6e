"""Intervals and tests of the mean of paired differences, for one comparison or for many at once.

Shapes: N seeds, K comparisons, R draws. A seed that a comparison lacks is NaN.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gmt.verdicts.question import FEWEST, LEVEL

FEWEST_FLIPS = 12  # pairs: with at least as many, a sign-flip test replaces the t distribution
NO_SPREAD = 1e-12  # of scores in [0, 1]: differences below it are rounding
_ALL_FLIPS = 8192
DRAWS = 9999
MOST_AT_ONCE = 20_000_000  # numbers in a matrix

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The moments of K comparisons, and which of the comparisons are tested.

    Args:
        mean_K, error_K: the mean difference of each comparison and its standard error; NaN without a pair.
        n_K: the number of pairs.
        is_equal_K: every pair has the same score twice.
        is_constant_K: there are at least FEWEST pairs, which all differ by the same amount, not 0.
        is_tested_K: there are at least FEWEST pairs with a standard error above 0.
    """

    mean_K: Floats
    error_K: Floats
    n_K: NDArray[np.int64]
    is_equal_K: Flags
    is_constant_K: Flags
    is_tested_K: Flags

    @property
    def freedom_K(self) -> Floats:
        """The degrees of freedom, at least 1."""
        return np.maximum(self.n_K - 1, 1).astype(float)


def moments(differences_NK: Floats, step_K: Floats | float = float("nan")) -> Moments:
    """Return the moments of K comparisons.

    Args:
        differences_NK: the differences by seed; NaN for a seed that a comparison lacks.
        step_K: the change of each difference by one question, which is the assumed standard deviation of pairs that all
            differ by the same amount; NaN: such pairs are not tested.
    """
    known_NK = ~np.isnan(differences_NK)
    n_K = known_NK.sum(0)
    filled_NK = np.where(known_NK, differences_NK, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_K = filled_NK.sum(0) / n_K
        squares_K = (np.where(known_NK, differences_NK - mean_K, 0.0) ** 2).sum(0)
        error_K = np.sqrt(squares_K / (n_K - 1) / n_K)
    has_enough_K = n_K >= FEWEST
    has_spread_K = np.sqrt(squares_K) > NO_SPREAD
    is_equal_K = has_enough_K & ~has_spread_K & (np.abs(mean_K) <= NO_SPREAD)
    mean_K = np.where(is_equal_K, 0.0, mean_K)  # differences that cancel over pooled tasks leave a rounding error
    is_constant_K = has_enough_K & ~has_spread_K & ~is_equal_K
    error_K = np.where(is_constant_K, step_K / np.sqrt(np.maximum(n_K, 1)), error_K)
    return Moments(
        mean_K=mean_K,
        error_K=error_K,
        n_K=n_K,
        is_equal_K=is_equal_K,
        is_constant_K=is_constant_K,
        is_tested_K=has_enough_K & (has_spread_K | is_constant_K & ~np.isnan(step_K)),
    )


def t_limit(level: float, freedom_K: Floats) -> Floats:
    """Return the one-sided critical value of Student's t: t exceeds it with a probability of `level`."""
    limit: Floats = -special.stdtrit(freedom_K, level)
    return limit


def p_above(t_K: Floats, freedom_K: Floats) -> Floats:
    """Return the survival function of Student's t: the probability of a value above `t_K`."""
    p: Floats = special.stdtr(freedom_K, -t_K)
    return p


def p_two_sided(sample: Moments) -> Floats:
    """Return the p of Student's two-sided test of a zero mean; 1 for equal pairs, and NaN without a test."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p_K = 2 * p_above(np.abs(sample.mean_K) / sample.error_K, sample.freedom_K)
    return np.where(sample.is_tested_K, p_K, np.where(sample.is_equal_K, 1.0, np.nan))


def p_within(sample: Moments, margin: float) -> Floats:
    """Return the p of the equivalence test (two one-sided tests, TOST; Schuirmann, 1987); NaN without a test.

    A small p shows that the mean lies within the margin.
    """
    return np.fmax(p_beyond(sample, -margin), p_beyond(sample, margin, is_below=True))


def p_beyond(sample: Moments, bound: float, *, is_below: bool = False) -> Floats:
    """Return the p of a one-sided t test: a small p shows that the mean lies above (below) the bound.

    For equal pairs, whose mean is 0 without an error, p is 0 or 1. It is NaN without a test.
    """
    sign = -1 if is_below else 1
    with np.errstate(invalid="ignore", divide="ignore"):
        p_K = p_above(sign * (sample.mean_K - bound) / sample.error_K, sample.freedom_K)
    equal = 0.0 if sign * (0 - bound) > 0 else 1.0
    return np.where(sample.is_tested_K, p_K, np.where(sample.is_equal_K, equal, np.nan))


@dataclass(frozen=True, kw_only=True)
class Simultaneous:
    """Simultaneous confidence intervals, and the two-sided adjusted p values that agree with them.

    Args:
        half_K: half the width of each interval; NaN without a test, 0 for equal pairs.
        p_K: the adjusted p values: at most the level if and only if the interval excludes 0.
        is_by_flips: whether the intervals come from sign flips.
    """

    half_K: Floats
    p_K: Floats
    is_by_flips: bool


def simultaneous(
    differences_NK: Floats, level: float = LEVEL, *, step_K: Floats | float = float("nan")
) -> Simultaneous:
    """Return simultaneous confidence intervals: with a probability of 1 - level, all of them cover the true means.

    With at least FEWEST_FLIPS pairs, a sign-flip test gives the critical value: a quantile of the largest |t| over the
    comparisons when the signs of the centred differences are flipped, seed by seed (max-T; Westfall and Young, 1993).
    Correlated comparisons then cost little, and no normal distribution is assumed. Student's t with Sidak's correction
    (1967) gives it with fewer pairs, with pairs that all differ by the same amount, for which flips have no t, and at a
    level below the smallest p that flips can give.

    Args:
        differences_NK, step_K: as in `moments`.
        level: the familywise error rate: the probability that at least one interval misses the true mean.
    """
    sample = moments(differences_NK, step_K)
    tested_K = sample.is_tested_K
    half_K = np.where(sample.is_equal_K, 0.0, np.nan)
    p_K = np.where(sample.is_equal_K, 1.0, np.nan)
    num_tested = int(tested_K.sum())
    if not num_tested:
        return Simultaneous(half_K=half_K, p_K=p_K, is_by_flips=False)
    t_K = np.abs(sample.mean_K[tested_K]) / sample.error_K[tested_K]
    can_flip = int(sample.n_K[tested_K].min()) >= FEWEST_FLIPS and not (tested_K & sample.is_constant_K).any()
    num_draws = len(_signs(len(differences_NK))) if can_flip else 0
    is_by_flips = num_draws > 0 and level * (num_draws + 1) >= 1
    limit: float | Floats
    if is_by_flips:
        limit, p_K[tested_K] = limit_and_p(np.sort(_largest_t(differences_NK[:, tested_K])), t_K, level)
    else:
        freedom_K = sample.freedom_K[tested_K]
        limit = t_limit(-np.expm1(np.log1p(-level) / num_tested) / 2, freedom_K)
        with np.errstate(divide="ignore"):  # t = 0, whose p is 1
            p_K[tested_K] = -np.expm1(num_tested * np.log1p(-2 * p_above(t_K, freedom_K)))
    half_K[tested_K] = limit * sample.error_K[tested_K]
    return Simultaneous(half_K=half_K, p_K=p_K, is_by_flips=is_by_flips)


def limit_and_p(drawn_R: Floats, t_K: Floats, level: float) -> tuple[float, Floats]:
    """Return the critical value of the largest of K statistics, and the adjusted p of each statistic.

    A statistic exceeds the critical value if and only if its p is at most the level.

    Args:
        drawn_R: the largest statistic of each draw, sorted.
        t_K: the statistics.
        level: at least 1 / (R + 1), the smallest p.
    """
    num_draws = len(drawn_R)
    num_beyond = int(level * (num_draws + 1)) - 1  # the most draws that may reach t if p is at most the level
    p_K: Floats = (1 + num_draws - np.searchsorted(drawn_R, t_K, side="left")) / (num_draws + 1)
    return float(drawn_R[num_draws - 1 - num_beyond]), p_K


def _largest_t(differences_NK: Floats) -> Floats:
    """Return the largest |t| over comparisons for each of R flips of the seeds' signs."""
    known_NK = ~np.isnan(differences_NK)
    n_K = known_NK.sum(0)
    centred_NK = np.where(known_NK, differences_NK - np.nanmean(differences_NK, axis=0), 0.0)
    mean_square_K = (centred_NK**2).sum(0) / n_K
    signs_RN = _signs(len(differences_NK))
    num_at_once = max(MOST_AT_ONCE // differences_NK.shape[1], 1)
    largest = []
    for start in range(0, len(signs_RN), num_at_once):
        square_RK = (signs_RN[start : start + num_at_once] @ centred_NK / n_K) ** 2
        with np.errstate(divide="ignore"):
            t2_RK = square_RK / np.maximum(mean_square_K - square_RK, 0) * (n_K - 1)
        largest.append(np.sqrt(t2_RK.max(1)))
    return np.concatenate(largest)


@cache
def _signs(num_seeds: int) -> Floats:
    """Return all sign flips of the seeds, without the negative of each; if there are too many, random draws of them."""
    if 2 ** (num_seeds - 1) <= _ALL_FLIPS:
        return np.array([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=num_seeds - 1)])
    return np.random.default_rng(0).choice((1.0, -1.0), size=(DRAWS, num_seeds))


def depends_on_task(p_tasks_K: Floats, level: float) -> Flags:
    """Return whether a comparison's difference depends on the task, so that its mean over tasks says little.

    Args:
        p_tasks_K: for each comparison, the p of the hypothesis that its difference is the same on all tasks; NaN
            without a test.
        level: the familywise error rate of all comparisons, by Bonferroni's correction.
    """
    differ_K: Flags = p_tasks_K * len(p_tasks_K) < level
    return differ_K
