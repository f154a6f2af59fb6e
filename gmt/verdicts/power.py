"""The power of the planned seeds to decide a question, by the deviations of paired differences over seeds.

Shapes: N seeds, K comparisons, G tasks, R simulated studies, L independent sources of variation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from gmt.verdicts.decide import difference_matrix
from gmt.verdicts.intervals import NO_SPREAD, Floats, t_limit
from gmt.verdicts.pairs import Columns, Pair
from gmt.verdicts.question import FEWEST, Question
from gmt.verdicts.scores import Scores

POWER = 0.8
_MOST_SEEDS = 1024
_STUDIES = 400
_MOST_AT_ONCE = 4_000_000  # numbers in a matrix
_SLICES = 20_000


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The variation of differences over seeds.

    Args:
        loadings_LK: factor loadings: the differences of a seed are L independent standard normal numbers times these.
        num_seeds: the number of seeds that the spread is estimated from; None if it is assumed.
        unpooled_K: the standard deviation of each comparison's differences before pooling; None if it is assumed.
    """

    loadings_LK: Floats
    num_seeds: int | None
    unpooled_K: Floats | None = None

    @property
    def deviation_K(self) -> Floats:
        """The standard deviation of each comparison's differences."""
        deviation_K: Floats = np.sqrt((self.loadings_LK**2).sum(0))
        return deviation_K


def recorded_spread(columns: Columns, scores: Scores) -> Spread | None:
    """Return the spread of finished runs; None if a comparison lacks FEWEST pairs on seeds that all others have.

    All comparisons on a task get one pooled standard deviation, the root of their mean square. A claim of all of them
    would otherwise depend on the largest of many deviations, which a few seeds over- or underestimate by chance.
    """
    differences_NK = difference_matrix(scores, columns) if columns else np.empty((0, 0))
    whole_NK = differences_NK[~np.isnan(differences_NK).any(1)]
    if len(whole_NK) < FEWEST:
        return None
    pairs, unpooled_K = list(dict.fromkeys(pair for pair, _ in columns)), whole_NK.std(0, ddof=1)
    by_task_GK = unpooled_K.reshape(-1, len(pairs))  # the columns hold all pairs on a task, then those on the next
    pooled_G = np.sqrt((by_task_GK**2).mean(1))
    pooled = assumed_spread(pairs, len(pooled_G), pooled_G)
    return Spread(loadings_LK=pooled.loadings_LK, num_seeds=len(whole_NK), unpooled_K=unpooled_K)


def assumed_spread(pairs: Sequence[Pair], num_groups: int, deviation: float | Floats) -> Spread:
    """Return the spread of choices whose scores vary independently, with the deviation of a difference as given.

    Args:
        pairs: the comparisons on a task, or on tasks that are pooled.
        num_groups: the number of tasks, or 1 if they are pooled.
        deviation: the standard deviation of a difference over seeds: one for all groups, or one for each.
    """
    place = {choice: number for number, choice in enumerate(dict.fromkeys(c for pair in pairs for c in pair))}
    contrast_CK = np.zeros((len(place), len(pairs)))
    for k, (choice, against) in enumerate(pairs):
        contrast_CK[place[choice], k] += 1
        contrast_CK[place[against], k] -= 1
    scale_GG = np.diag(np.broadcast_to(deviation, num_groups)) / np.sqrt(2)
    return Spread(loadings_LK=np.kron(scale_GG, contrast_CK), num_seeds=None)


def power(question: Question, spread: Spread, num_seeds: int, level: float) -> float:
    """Return the power: the probability that a question's claim is shown if it is true.

    A claim of all comparisons is true if no comparison differs. For a claim of each comparison, the result is the mean
    over comparisons of the power to show a difference of the margin, with Sidak's correction; a sign-flip test of
    correlated comparisons has more power.
    """
    if num_seeds < FEWEST:
        return 0.0
    if question.is_of_all:
        return _power_of_all(question, spread, num_seeds, level)
    share = -np.expm1(np.log1p(-level) / spread.loadings_LK.shape[1]) / 2
    deviation_K = np.maximum(spread.deviation_K, NO_SPREAD)
    return float(np.mean(_power_of_one(question.margin / deviation_K, num_seeds, share)))


def _power_of_one(size_K: Floats, num_seeds: int, share: float) -> Floats:
    """Return the power of a t test for each effect size: a difference in units of its standard deviation.

    Args:
        size_K: the effect sizes.
        num_seeds: the number of pairs.
        share: the one-sided level of the test.
    """
    limit_S = limits_of_t(float(t_limit(share, np.array(num_seeds - 1.0))), num_seeds - 1)
    shift_K = size_K * np.sqrt(num_seeds)
    shifts, place_K = np.unique(shift_K, return_inverse=True)  # an assumed deviation is the same for all
    return np.array([float(special.ndtr(shift - limit_S).mean()) for shift in shifts])[place_K]


def limits_of_t(limit: float, freedom: int) -> Floats:
    """Return the smallest significant mean of a t test for each of equally likely estimates of a deviation.

    The true deviation is 1, and its estimate follows a scaled chi distribution. statsmodels' power fails for few pairs.

    Args:
        limit: the critical value of t.
        freedom: the degrees of freedom of the estimate.

    Returns:
        The means in ascending order, in units of the true standard error.
    """
    middles_S = (np.arange(_SLICES) + 0.5) / _SLICES
    limit_S: Floats = limit * np.sqrt(2 * special.gammaincinv(freedom / 2, middles_S) / freedom)
    return limit_S


def _power_of_all(question: Question, spread: Spread, num_seeds: int, level: float) -> float:
    num_sources, num_comparisons = spread.loadings_LK.shape
    limit = float(t_limit(level, np.array(float(num_seeds - 1)))) / np.sqrt(num_seeds)
    at_once = max(_MOST_AT_ONCE // (num_seeds * max(num_comparisons, num_sources)), 1)
    rng, shown, done = np.random.default_rng(0), 0, 0
    while done < _STUDIES:
        number = min(at_once, _STUDIES - done)
        mean_RK, deviation_RK = _drawn_moments(rng.normal(size=(number, num_seeds, num_sources)), spread.loadings_LK)
        half_RK = limit * deviation_RK
        low_RK = (mean_RK if question.more_is_better else -mean_RK) - half_RK
        holds_RK = low_RK > -question.margin
        if question.claim == "equivalent":
            holds_RK &= low_RK + 2 * half_RK < question.margin
        shown, done = shown + int(holds_RK.all(1).sum()), done + number
    return shown / _STUDIES


def _drawn_moments(sources_RNL: Floats, loadings_LK: Floats) -> tuple[Floats, Floats]:
    """Return the means and standard deviations over seeds of the comparisons, from draws of their sources.

    With more seeds than sources, the Cholesky factor of the sources' sums of squares replaces the seeds.
    """
    _, num_seeds, num_sources = sources_RNL.shape
    mean_RL = sources_RNL.mean(1)
    rows_RML = sources_RNL - mean_RL[:, None]
    if num_seeds > num_sources:
        rows_RML = np.linalg.cholesky(rows_RML.transpose(0, 2, 1) @ rows_RML).transpose(0, 2, 1)
    squares_RK = ((rows_RML @ loadings_LK) ** 2).sum(1)
    return mean_RL @ loadings_LK, np.sqrt(squares_RK / (num_seeds - 1))


def seeds_needed(question: Question, spread: Spread, level: float) -> int | None:
    """Return the least number of seeds that give a power of POWER; None if _MOST_SEEDS do not."""
    if power(question, spread, _MOST_SEEDS, level) < POWER:
        return None
    numbers = range(FEWEST, _MOST_SEEDS)
    return numbers.start + bisect_left(numbers, True, key=lambda n: power(question, spread, n, level) >= POWER)


def largest_deviation(
    question: Question, pairs: Sequence[Pair], num_groups: int, num_seeds: int, level: float
) -> float:
    """Return the largest deviation of a paired difference, in hundredths of the margin, that still gives POWER."""
    step = question.margin / 100
    deviations = [step * number for number in range(1, 1000)]

    def is_too_large(deviation: float) -> bool:
        return power(question, assumed_spread(pairs, num_groups, deviation), num_seeds, level) < POWER

    place = bisect_left(deviations, True, key=is_too_large)
    return deviations[place - 1] if place else 0.0
