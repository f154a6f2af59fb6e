"""The power of Student's paired t test: the smallest difference that a study detects.

A pair is the runs of two choices on the same seed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import optimize, special

from gmt.verdicts.intervals import t_limit
from gmt.verdicts.power import POWER, limits_of_t
from gmt.verdicts.question import FEWEST, LEVEL


def detectable_difference(deviation: float, num_pairs: int, *, num_comparisons: int = 1) -> float:
    """Return the smallest mean difference that a paired t test detects with a power of POWER.

    Args:
        deviation: the standard deviation of a pair's difference.
        num_pairs: the number of pairs.
        num_comparisons: the number of tests that share the level (Bonferroni).

    Returns:
        The difference in the units of the deviation; NaN for fewer than FEWEST pairs, which are not tested.
    """
    if num_pairs < FEWEST or not np.isfinite(deviation):
        return float("nan")
    return _detectable_size(num_pairs, num_comparisons) * deviation


@cache
def _detectable_size(num_pairs: int, num_comparisons: int) -> float:
    """Return the detectable difference in units of the deviation."""
    limit = float(t_limit(LEVEL / num_comparisons / 2, np.array(num_pairs - 1.0)))
    return detectable_size(limit, num_pairs - 1) / float(np.sqrt(num_pairs))


def detectable_size(limit: float, freedom: int) -> float:
    """Return the smallest mean difference that is detected with a power of POWER, in units of its standard error.

    Args:
        limit: the critical value of t: a difference is detected if it exceeds this many estimated standard errors.
        freedom: the degrees of freedom of the standard error's estimate.
    """
    limit_S = limits_of_t(limit, freedom)

    def missing_power(size: float) -> float:
        return float((special.ndtr(size - limit_S) + special.ndtr(-limit_S - size)).mean()) - POWER

    return float(optimize.brentq(missing_power, 0, 10 * limit_S.mean()))
