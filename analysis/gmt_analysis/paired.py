"""Differences between choices on the same seed, with intervals that hold together.

The functions take the typed table of a study (gmt.tracking.table) and one of its columns; only finished runs count, and
differences are in the units of the column. A pair is the runs of two choices on the same seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gmt.verdicts.all_pairs import p_alike
from gmt.verdicts.intervals import NO_SPREAD, depends_on_task, moments, p_two_sided, p_within, simultaneous
from gmt.verdicts.question import FEWEST, LEVEL
from gmt_analysis.choices import CHOICE, Baseline, choice_name, scores_of
from gmt_analysis.power import detectable_difference

_TESTED = ["difference", "low", "high", "n", "p", "p_shared", "p_equivalent", "detectable"]


def differences(table: pd.DataFrame, column: str, *, baseline: str, margin: float | None = None) -> pd.DataFrame:
    """Return each choice less the baseline on the same seed.

    Args:
        table: of a study.
        column: the compared column.
        baseline: an arm, e.g. `sft`; gmt_analysis.choices.Baseline says which of its runs a choice is compared with.
        margin: of equivalence; None: equivalence is not tested.

    Returns:
        A row for each other arm, task and value of the axis:
        `difference`; `n` pairs; `low` and `high` of intervals that hold together for all rows, and `p_shared`, which is
        at most LEVEL if and only if its interval excludes 0 (gmt.verdicts.intervals.simultaneous); `p` of the row alone
        by Student's two-sided paired test; `p_welch` of the same by Welch's test without pairs, for seeds that move
        both choices in opposite ways; `p_equivalent` of two one-sided paired t tests, of the row alone; and
        `detectable`: the smallest difference found with a power of POWER, with the level shared out over all rows that
        are tested. Pairs with the same score have a difference of exactly 0. With fewer than three pairs, or pairs that
        all differ by the same amount, there is no test and p is missing.

    Raises:
        UserError: the study has no such arm with a finished run.
    """
    scores, base = scores_of(table, column), Baseline.from_table(table, baseline)
    of_task: dict[Any, pd.DataFrame] = dict(list(scores[scores["arm"] == baseline].groupby("task")))
    rows, pairs = [], []
    for (arm, task, value), group in scores[scores["arm"] != baseline].groupby(CHOICE, dropna=False, sort=False):
        own, other = _paired(group, base.runs(of_task.get(task, scores.iloc[:0]), group["axis"].iloc[0]), column)
        rows.append({"arm": arm, "task": task, "axis": value, "p_welch": _p_welch(own.to_numpy(), other.to_numpy())})
        pairs.append(own - other)
    known = pd.DataFrame(rows, columns=[*CHOICE, "p_welch"])
    tested = _tested(pairs, margin)
    return pd.concat([known[CHOICE], tested, known["p_welch"]], axis=1)


def over_tasks(table: pd.DataFrame, column: str, *, baseline: str, margin: float | None = None) -> pd.DataFrame:
    """Return each choice less the baseline in the mean over tasks, seed by seed.

    The mean over tasks of a seed's differences is one number, and `n` counts seeds. Nothing is said of other tasks.

    Returns:
        A row for each arm and value of the axis but the baseline: `choice`, the columns of `differences` but `p_welch`,
        `p_tasks` of the test that the difference is the same on all tasks (gmt.verdicts.all_pairs), and
        `depends_on_task`: whether it is not, so that its mean says little. Empty without a baseline.
    """
    scores = scores_of(table, column)
    if baseline not in set(scores["arm"]):
        return pd.DataFrame(columns=["choice", *_TESTED, "p_tasks", "depends_on_task"])
    base, num_tasks = Baseline.from_table(table, baseline), scores["task"].nunique()
    of_baseline = scores[scores["arm"] == baseline]
    names, pairs, of_tasks = [], [], []
    for (arm, _), group in scores[scores["arm"] != baseline].groupby(["arm", "axis"], dropna=False, sort=False):
        base_by_task = dict(list(base.runs(of_baseline, group["axis"].iloc[0]).groupby("task")))
        differences_by_task = {}
        for task, of_task in group.groupby("task"):
            own, other = _paired(of_task, base_by_task.get(task, of_task.iloc[:0]), column)
            if len(own):
                differences_by_task[task] = own - other
        wide = pd.DataFrame(differences_by_task).dropna().sort_index()
        names.append(choice_name(arm, group["axis"].iloc[0]))
        pairs.append(wide.mean(axis=1) if wide.shape[1] == num_tasks else pd.Series(dtype=float))
        of_tasks.append(wide.to_numpy(dtype=float))
    tested = pd.concat([pd.DataFrame({"choice": names}), _tested(pairs, margin)], axis=1)
    p_tasks = [p_alike(wide_NG, LEVEL / len(of_tasks)) for wide_NG in of_tasks]
    return tested.assign(p_tasks=p_tasks, depends_on_task=depends_on_task(np.array(p_tasks), LEVEL))


def _paired(group: pd.DataFrame, base_runs: pd.DataFrame, column: str) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return the scores of a choice and of the baseline on the seeds that both have, by seed."""
    own, other = group.set_index("seed")[column], base_runs.set_index("seed")[column]
    own = own[own.index.isin(other.index)]
    return own, other.loc[own.index]


def _tested(pairs: list[pd.Series[float]], margin: float | None) -> pd.DataFrame:
    """Return the tests of comparisons, from each one's differences by seed."""
    if not pairs:
        return pd.DataFrame(columns=_TESTED)
    differences_NK = np.asarray(pd.concat([own.astype(float) for own in pairs], axis=1).to_numpy(), dtype=float)
    sample, together = moments(differences_NK), simultaneous(differences_NK, LEVEL)
    deviation_K = np.where(sample.is_tested_K, sample.error_K * np.sqrt(sample.n_K), np.nan)
    num_tested = max(int(sample.is_tested_K.sum()), 1)
    return pd.DataFrame(
        {
            "difference": sample.mean_K,
            "low": sample.mean_K - together.half_K,
            "high": sample.mean_K + together.half_K,
            "n": sample.n_K,
            "p": p_two_sided(sample),
            "p_shared": together.p_K,
            "p_equivalent": np.nan if margin is None else p_within(sample, margin),
            "detectable": [
                detectable_difference(float(deviation), int(n), num_comparisons=num_tested)
                for deviation, n in zip(deviation_K, sample.n_K, strict=True)
            ],
        }
    )


def _p_welch(own: np.ndarray, other: np.ndarray) -> float:
    if len(own) < FEWEST or min(np.ptp(own), np.ptp(other)) <= NO_SPREAD:
        return float("nan")
    return float(stats.ttest_ind(own, other, equal_var=False).pvalue)
