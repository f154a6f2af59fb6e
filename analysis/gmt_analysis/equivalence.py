"""Tests of an arm's score along the axis: do values differ, and are all values equivalent within a margin?

The functions take the typed table of a study (gmt.tracking.table), as those of gmt_analysis.paired do. Values are those
of the study's axis, e.g. mask ratios.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.tracking.outcomes import CHANGED, DIRTY, UNSCORED
from gmt.verdicts.all_pairs import AllPairs, all_pairs
from gmt.verdicts.intervals import p_two_sided, p_within
from gmt.verdicts.question import FEWEST
from gmt_analysis.choices import has_base_scores, join_values, scores_of, steps_by_task
from gmt_analysis.power import detectable_size


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The sensitivity of one arm to the axis on one task, by tests of all pairs of values at once.

    Args:
        arm, task: the arm and the task.
        num_values: the number of compared values of the axis.
        num_seeds: the number of seeds that every value has.
        best: the value with the best mean.
        index: the range of the means over values, in units of the seeds' standard deviation at a value; NaN without
            spread, or for one value or seed.
        p_range: the probability of a range at least as large if all values were equal (gmt.verdicts.all_pairs); NaN
            without a test.
        detectable: the smallest difference between two values that the study detects with a power of POWER, for a pair
            whose standard error is the root mean square of all pairs' errors.
        words: the result of the tests as a clause.
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


def pairs_of_values(table: pd.DataFrame, column: str, *, margin: float) -> pd.DataFrame:
    """Test all pairs of values of each arm on the same seeds: do they differ, are they equivalent within the margin?

    Args:
        table: the typed table of a study.
        column: the compared column.
        margin: differences smaller than this do not matter; in the units of the column, above 0.

    Returns:
        A row for each arm with the axis, task and pair of values. `difference` is the score at `axis` less that at
        `against`; `n` is the number of pairs; `p` is that of the pair by itself, by Student's two-sided paired test;
        `low`, `high` and `p_shared` are simultaneous for all pairs of the arm on the task (gmt.verdicts.all_pairs);
        `p_equivalent` is that of two one-sided paired t tests (TOST; Schuirmann, 1987). If every `p_equivalent` is
        below the level, uncorrected (Berger, 1982), the range of the means is shown to be smaller than the margin.

    Raises:
        UserError: the margin is not above 0.
    """
    _refuse_margin(margin)
    steps = steps_by_task(table, column)
    tests = []
    for (arm, task), wide in _along_axis(table, column):
        pairs = all_pairs(wide.to_numpy(dtype=float), step=steps[task])
        if len(pairs.first_K):
            tests.append(_rows(pairs, wide.columns.to_numpy(), margin).assign(arm=arm, task=task))
    return pd.concat(tests, ignore_index=True) if tests else pd.DataFrame()


def sensitivity(
    table: pd.DataFrame, column: str, *, axis: Axis, margin: float, more_is_better: bool = True
) -> list[Sensitivity]:
    """Return the sensitivity of each arm with the axis on each task.

    Args:
        table, column, margin: as in `pairs_of_values`.
        axis: the study's axis, which the clauses name.
        more_is_better: whether a larger score is a better one.
    """
    _refuse_margin(margin)
    untested, steps = _untested_values(table, column), steps_by_task(table, column)
    diverged = _words_without_diverged(table, column, axis, margin, more_is_better)
    sensitivities = []
    for (arm, task), wide in _along_axis(table, column):
        pairs = all_pairs(wide.to_numpy(dtype=float), step=steps[task])
        spread = float(np.sqrt(wide.var(ddof=1).mean())) if len(wide) > 1 else float("nan")
        means = wide.mean().to_numpy()
        has_index = spread and wide.shape[1] > 1
        sensitivities.append(
            Sensitivity(
                arm=str(arm),
                task=str(task),
                num_values=wide.shape[1],
                num_seeds=len(wide),
                best=float(wide.columns.to_numpy()[means.argmax() if more_is_better else means.argmin()]),
                index=float(np.ptp(means)) / spread if has_index else float("nan"),
                p_range=pairs.p_range,
                detectable=_detectable(pairs),
                words=_words(pairs, wide, axis, margin, more_is_better)
                + untested.get((arm, task), "")
                + diverged.get((arm, task), ""),
            )
        )
    return sensitivities


def _refuse_margin(margin: float) -> None:
    if not margin > 0:
        raise UserError(f"the margin of equivalence must be above 0, got {margin}")


def _along_axis(table: pd.DataFrame, column: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield arm and task with their scores: a row for each seed that every value has, a column for each value."""
    scores = scores_of(table, column)
    for key, group in scores[scores["axis"].notna()].groupby(["arm", "task"], sort=False):
        wide = group.set_index(["seed", "axis"])[column].unstack("axis").dropna()
        if len(wide):
            yield key, wide


def _rows(pairs: AllPairs, values_V: np.ndarray, margin: float) -> pd.DataFrame:
    """Return a row for each pair."""
    sample, intervals = pairs.sample, pairs.intervals
    return pd.DataFrame(
        {
            "axis": values_V[pairs.first_K],
            "against": values_V[pairs.second_K],
            "difference": sample.mean_K,
            "low": sample.mean_K - intervals.half_K,
            "high": sample.mean_K + intervals.half_K,
            "n": sample.n_K,
            "p": p_two_sided(sample),
            "p_shared": intervals.p_K,
            "p_equivalent": p_within(sample, margin),
        }
    )


def _detectable(pairs: AllPairs) -> float:
    """Return the smallest difference of a pair that is detected with a power of POWER; NaN without a test."""
    tested_K = pairs.sample.is_tested_K
    if not tested_K.any():
        return float("nan")
    error, half = (
        float(np.sqrt((values_K[tested_K] ** 2).mean())) for values_K in (pairs.sample.error_K, pairs.intervals.half_K)
    )
    return error * detectable_size(half / error, pairs.freedom)


def _words(pairs: AllPairs, wide: pd.DataFrame, axis: Axis, margin: float, more_is_better: bool) -> str:
    if wide.shape[1] < 2:
        return f"one {axis.name}: sensitivity is not tested"
    if len(wide) < FEWEST:
        return f"{len(wide)} seed{'s' if len(wide) > 1 else ''}: sensitivity is not tested"
    within_K = pairs.are_within(margin)
    if within_K.all():
        return f"any two {axis.plural} are equivalent: the range of their means is shown to be below the margin"
    is_first_worse_K = (pairs.sample.mean_K < 0) == more_is_better
    worse_K = np.where(is_first_worse_K, pairs.first_K, pairs.second_K)[pairs.differ() & ~within_K]
    if len(worse_K):
        values = join_values(wide.columns.to_numpy()[np.unique(worse_K)].tolist())
        return f"sensitive: worse than another {axis.name} at {values}"
    return f"no two {axis.plural} are shown to differ by an amount that matters, nor all to be equivalent"


def _words_without_diverged(
    table: pd.DataFrame, column: str, axis: Axis, margin: float, more_is_better: bool
) -> dict[tuple[Any, ...], str]:
    """Return a clause on the runs that diverged and count with the base's score, by arm and task with such runs."""
    is_counted = _is_counted(table, column)
    if not is_counted.any():
        return {}
    without = sensitivity(table[~is_counted], column, axis=axis, margin=margin, more_is_better=more_is_better)
    words = {(result.arm, result.task): result.words for result in without}
    clauses = {}
    for (arm, task), diverged in table[is_counted & table["axis"].notna()].groupby(["arm", "task"], sort=False):
        clauses[arm, task] = (
            f" (runs that diverged, at {join_values(sorted(diverged['axis'].unique()))}, count with the base's score; "
            f"without them: {words.get((str(arm), str(task)), 'no seed is left')})"
        )
    return clauses


def _is_counted(table: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Return whether a run diverged and has the base's score."""
    return has_base_scores(table) & table[column].notna()


def _untested_values(table: pd.DataFrame, column: str) -> dict[tuple[Any, ...], str]:
    """Return a clause on the values whose runs no test includes, by arm and task with such runs."""
    names = {
        "diverged": "diverged",
        DIRTY: "made with uncommitted changes",
        UNSCORED: "without a score",
        CHANGED: "changed since they ended",
    }
    untested = table[(table["state"] != "done") & ~_is_counted(table, column) & table["axis"].notna()]
    clauses = {}
    for key, runs in untested.groupby(["arm", "task"], sort=False):
        words = runs["state"].map(lambda state: names.get(state, "not done"))
        by_words = {name: sorted(runs.loc[words == name, "axis"].unique()) for name in (*names.values(), "not done")}
        listed = [f"{name} at {join_values(values)}" for name, values in by_words.items() if values]
        clauses[key] = f" (runs left out: {'; '.join(listed)})"
    return clauses
