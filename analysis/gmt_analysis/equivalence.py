"""Tests of an arm's score along the axis: is it worse than at its best value, is it equivalent within a margin?

The functions take the typed table of a study (gmt.tracking.table), as those of gmt_analysis.paired do. Values are those
of the study's axis, e.g. mask ratios.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.tracking.outcomes import DIRTY
from gmt.verdicts.intervals import NO_SPREAD, moments, p_two_sided, p_within, t_limit
from gmt.verdicts.question import FEWEST, LEVEL
from gmt_analysis.choices import join_values, scores_of
from gmt_analysis.power import detectable_difference


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The sensitivity of one arm to the axis on one task, by tests.

    Args:
        arm, task: the arm and the task.
        num_values: the number of compared values of the axis.
        num_seeds: the number of seeds that every value has.
        best: the value with the best mean.
        index: the range of the means over values, in units of the seeds' standard deviation at a value; NaN without
            spread, or for one value or seed.
        p_range: p of so large a range of means if all values were alike, by the studentized range over the residuals of
            seeds and values (Tukey, 1953): deviations at all values are taken for equal. NaN likewise.
        detectable: the smallest difference between two values that the study finds with a power of POWER, with the
            level shared out over all pairs.
        words: the result of the tests in words.
    """

    arm: str
    task: str
    num_values: int
    num_seeds: int
    best: float
    index: float
    p_range: float
    detectable: float
    words: str


def against_best(table: pd.DataFrame, column: str, *, margin: float, more_is_better: bool = True) -> pd.DataFrame:
    """Test each value of an arm against its best on the same seed: is it worse, is it equivalent within the margin?

    The best is chosen by the same data, which makes the others look worse by chance: equivalence is claimed too seldom
    rather than too often, and for differences the level is shared out over all pairs of values, whichever is the best.
    Equivalence to the best bounds how far a value lies below it; two values may differ by twice the margin. A primary
    question against each_other bounds all differences.

    Args:
        table: of a study.
        column: the compared column.
        margin: differences smaller than this do not matter; in the units of the column, above 0.
        more_is_better: whether the best is the largest.

    Returns:
        A row for each arm with the axis, task and value except the best: `best`, `difference` with `low` and `high`,
        `n`, `p` as in `differences`, `p_pairs`: p times the number of pairs of values (Bonferroni), and `p_equivalent`
        of two one-sided paired t tests (Schuirmann, 1987). All values are equivalent where every `p_equivalent` is
        below the level, uncorrected (Berger, 1982).

    Raises:
        UserError: the margin is not above 0.
    """
    if not margin > 0:
        raise UserError(f"the margin of equivalence must be above 0, got {margin}")
    tests_by_arm = []
    for (arm, task), wide in _along_axis(table, column):
        best = _best(wide, more_is_better)
        tests, num_pairs = _tests(_differences_to_best(wide, best), margin), wide.shape[1] * (wide.shape[1] - 1) / 2
        if len(tests):
            own = tests.assign(arm=arm, task=task, best=best, p_pairs=(tests["p"] * num_pairs).clip(upper=1))
            tests_by_arm.append(own)
    return pd.concat(tests_by_arm, ignore_index=True) if tests_by_arm else pd.DataFrame()


def sensitivity(
    table: pd.DataFrame, column: str, *, axis: Axis, margin: float, more_is_better: bool = True
) -> list[Sensitivity]:
    """Return the sensitivity of each arm with the axis on each task.

    Args:
        table, column, margin, more_is_better: as in `against_best`.
        axis: names the values.
    """
    tests = against_best(table, column, margin=margin, more_is_better=more_is_better)
    of_arms = dict(list(tests.groupby(["arm", "task"], sort=False))) if len(tests) else {}
    untested = _untested_values(table)
    sensitivities = []
    for (arm, task), wide in _along_axis(table, column):
        own = of_arms.get((arm, task), tests.iloc[:0])
        spread = float(np.sqrt(wide.var(ddof=1).mean())) if len(wide) > 1 else float("nan")
        means, best = wide.mean(), _best(wide, more_is_better)
        variances = _differences_to_best(wide, best).var(ddof=1).dropna()
        sensitivities.append(
            Sensitivity(
                arm=str(arm),
                task=str(task),
                num_values=wide.shape[1],
                num_seeds=len(wide),
                best=best,
                index=float(means.max() - means.min()) / spread if spread and len(variances) else float("nan"),
                p_range=_p_range(wide),
                detectable=detectable_difference(
                    float(np.sqrt(variances.mean())),
                    len(wide),
                    num_comparisons=wide.shape[1] * (wide.shape[1] - 1) // 2 or 1,
                ),
                words=_words(own, wide, axis) + untested.get((arm, task), ""),
            )
        )
    return sensitivities


def _along_axis(table: pd.DataFrame, column: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield arm and task with their scores: a row for each seed that every value has, a column for each value."""
    scores = scores_of(table, column)
    for key, group in scores[scores["axis"].notna()].groupby(["arm", "task"], sort=False):
        wide = group.set_index(["seed", "axis"])[column].unstack("axis").dropna()
        if len(wide):
            yield key, wide


def _best(wide: pd.DataFrame, more_is_better: bool) -> float:
    means = wide.mean().to_numpy()
    return float(wide.columns.to_numpy()[means.argmax() if more_is_better else means.argmin()])


def _p_range(wide: pd.DataFrame) -> float:
    num_seeds, num_values = wide.shape
    if num_seeds < 2 or num_values < 2:
        return float("nan")
    scores_NV = wide.to_numpy(dtype=float)
    residual_NV = scores_NV - scores_NV.mean(0) - scores_NV.mean(1, keepdims=True) + scores_NV.mean()
    freedom = (num_seeds - 1) * (num_values - 1)
    error = np.sqrt((residual_NV**2).sum() / freedom / num_seeds)
    if not error > NO_SPREAD:
        return float("nan")
    return float(stats.studentized_range.sf(np.ptp(scores_NV.mean(0)) / error, num_values, freedom))


def _differences_to_best(wide: pd.DataFrame, best: float) -> pd.DataFrame:
    """Return the scores at each other value less those at the best, a row for each seed."""
    return wide.drop(columns=best).sub(wide[best], axis=0)


def _tests(differences: pd.DataFrame, margin: float) -> pd.DataFrame:
    """Return a row of tests for each value of the axis, each test by itself."""
    sample = moments(differences.to_numpy(dtype=float))
    half_K = t_limit(LEVEL / 2, sample.freedom_K) * sample.error_K
    return pd.DataFrame(
        {
            "axis": differences.columns,
            "difference": sample.mean_K,
            "low": sample.mean_K - half_K,
            "high": sample.mean_K + half_K,
            "n": sample.n_K,
            "p": p_two_sided(sample),
            "p_equivalent": p_within(sample, margin),
        }
    )


def _words(tests: pd.DataFrame, wide: pd.DataFrame, axis: Axis) -> str:
    if wide.shape[1] < 2:
        return f"one {axis.name}: nothing is said of sensitivity"
    if len(wide) < FEWEST:
        return f"{len(wide)} seed{'s' if len(wide) > 1 else ''}: nothing is said of sensitivity"
    if tests["p"].isna().all():
        return "no spread between seeds: nothing is tested"
    equivalent, worse = tests["p_equivalent"] < LEVEL, tests["p_pairs"] < LEVEL
    if equivalent.all():
        return f"every {axis.name} is equivalent to the best within the margin"
    if different := join_values(tests.loc[worse & ~equivalent, "axis"].tolist()):
        return f"sensitive: worse than the best at {axis.name} {different}"
    return f"no difference to the best shown at any {axis.name}, nor equivalence within the margin at every {axis.name}"


def _untested_values(table: pd.DataFrame) -> dict[tuple[Any, ...], str]:
    """Return a clause on the values with runs that are in no test, by arm and task that have some."""
    names = {"diverged": "diverged", DIRTY: "made with uncommitted changes"}
    lacking = table[(table["state"] != "done") & table["axis"].notna()]
    clauses = {}
    for key, own in lacking.groupby(["arm", "task"], sort=False):
        words = own["state"].map(lambda state: names.get(state, "not done"))
        of_words = {name: sorted(own.loc[words == name, "axis"].unique()) for name in (*names.values(), "not done")}
        listed = [f"{name} at {join_values(values)}" for name, values in of_words.items() if values]
        clauses[key] = f" (left out: runs that are {'; '.join(listed)})"
    return clauses
