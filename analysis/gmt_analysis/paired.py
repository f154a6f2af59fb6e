"""Differences between choices on the same seed, with simultaneous intervals.

The functions take the typed table of a study (gmt.tracking.table) and one of its columns; only finished runs count, and
differences are in the units of the column. A pair is the runs of two choices on the same seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gmt.verdicts.all_pairs import p_alike
from gmt.verdicts.intervals import Floats, depends_on_task, moments, p_above, p_two_sided, p_within, simultaneous
from gmt.verdicts.question import LEVEL
from gmt_analysis.choices import CHOICE, Baseline, choice_name, scores_of, steps_by_task
from gmt_analysis.power import detectable_difference

_TESTED = [
    *("difference", "low", "high", "n", "p", "p_shared", "p_welch", "p_welch_shared", "p_equivalent", "detectable"),
    *("assumed_deviation", "num_diverged", "without_diverged"),
]
BETWEEN = ["arm", "against", "task", "axis"]


class _Pair(NamedTuple):
    """The scores of two choices on the seeds that both have, by seed, and whether a run of either diverged."""

    first: pd.Series[float]
    second: pd.Series[float]
    diverged: pd.Series[bool]


_NO_SCORES = _Pair(pd.Series(dtype=float), pd.Series(dtype=float), pd.Series(dtype=bool))


def differences(table: pd.DataFrame, column: str, *, baseline: str, margin: float | None = None) -> pd.DataFrame:
    """Return each choice less the baseline on the same seed.

    Args:
        table: the typed table of a study.
        column: the compared column.
        baseline: an arm, e.g. `sft`; gmt_analysis.choices.Baseline says which of its runs a choice is compared with.
        margin: the margin of equivalence; None: equivalence is not tested.

    Returns:
        A row for each other arm, task and value of the axis, with the columns
        difference, n: the mean of the differences, and the number of pairs. Pairs with the same score have a difference
        of exactly 0.
        low, high: the bounds of intervals that are simultaneous for all rows (gmt.verdicts.intervals.simultaneous).
        p_shared: the adjusted p of these intervals, at most LEVEL if and only if the row's interval excludes 0.
        p: the uncorrected p of Student's two-sided paired test. For fewer than three pairs, every p is missing.
        p_welch, p_welch_shared: the p of Welch's unpaired test, for seeds that move both choices in opposite ways:
        uncorrected, and corrected for all rows (Sidak, 1967).
        p_equivalent: the uncorrected p of two one-sided paired t tests.
        detectable: the smallest difference that is detected with a power of POWER, with Bonferroni's correction for all
        rows that are tested.
        assumed_deviation: for pairs that all differ by the same amount, the standard deviation that the tests assume,
        which is the change by one question.
        num_diverged, without_diverged: the number of pairs in which a run diverged, and the mean of the other pairs
        (gmt_analysis.choices.with_base_scores).

    Raises:
        UserError: the study has no such arm with a finished run.
    """
    scores, base = scores_of(table, column), Baseline.from_table(table, baseline)
    baseline_by_task: dict[Any, pd.DataFrame] = dict(list(scores[scores["arm"] == baseline].groupby("task")))
    rows, pairs = [], []
    for (arm, task, value), group in scores[scores["arm"] != baseline].groupby(CHOICE, dropna=False, sort=False):
        base_runs = base.runs(baseline_by_task.get(task, scores.iloc[:0]), group["axis"].iloc[0])
        pairs.append(_paired(group, base_runs, column))
        rows.append({"arm": arm, "task": task, "axis": value})
    choices = pd.DataFrame(rows, columns=CHOICE)
    return pd.concat([choices, _tested(pairs, margin, _steps(table, column, choices["task"]))], axis=1)


def between_arms(table: pd.DataFrame, column: str, *, baseline: str, margin: float | None = None) -> pd.DataFrame:
    """Return the differences between arms at the same value of the axis on the same seed, e.g. gmt less rmt at 0.9.

    The baseline, which `differences` compares with, is left out, and so are arms without the axis.

    Returns:
        A row for each pair of arms, task and value that both have: `arm`, `against`, `task`, `axis`, and the other
        columns of `differences`, whose intervals are simultaneous for all rows here.
    """
    scores = scores_of(table, column)
    with_axis = scores[scores["axis"].notna() & (scores["arm"] != baseline)]
    arms, rows, pairs = list(with_axis["arm"].unique()), [], []
    for (task, value), group in with_axis.groupby(["task", "axis"], sort=False):
        by_arm: dict[Any, pd.DataFrame] = dict(list(group.groupby("arm")))
        for arm, against in itertools.combinations([arm for arm in arms if arm in by_arm], 2):
            rows.append({"arm": arm, "against": against, "task": task, "axis": value})
            pairs.append(_paired(by_arm[arm], by_arm[against], column))
    choices = pd.DataFrame(rows, columns=BETWEEN)
    return pd.concat([choices, _tested(pairs, margin, _steps(table, column, choices["task"]))], axis=1)


def over_tasks(table: pd.DataFrame, column: str, *, baseline: str, margin: float | None = None) -> pd.DataFrame:
    """Return the difference of each choice to the baseline in the mean over tasks, seed by seed.

    Each seed gives one number, the mean of its differences over tasks, and `n` counts seeds. The result says nothing
    about other tasks.

    Returns:
        A row for each choice that is not of the baseline: `choice`, the columns of `differences`, `p_tasks`, the p of
        the hypothesis that the difference is the same on all tasks (gmt.verdicts.all_pairs), and `depends_on_task`,
        whether that hypothesis is rejected, so that the mean says little. Empty without a baseline.
    """
    scores = scores_of(table, column)
    if baseline not in set(scores["arm"]):
        return pd.DataFrame(columns=["choice", *_TESTED, "p_tasks", "depends_on_task"])
    base, num_tasks = Baseline.from_table(table, baseline), scores["task"].nunique()
    of_baseline = scores[scores["arm"] == baseline]
    names, pairs, differences_by_task = [], [], []
    for (arm, _), group in scores[scores["arm"] != baseline].groupby(["arm", "axis"], dropna=False, sort=False):
        base_by_task = dict(list(base.runs(of_baseline, group["axis"].iloc[0]).groupby("task")))
        by_task = {}
        for task, of_task in group.groupby("task"):
            pair = _paired(of_task, base_by_task.get(task, of_task.iloc[:0]), column)
            if len(pair.first):
                by_task[task] = pair
        first, second, diverged = (
            pd.DataFrame({task: pair[part] for task, pair in by_task.items()}).dropna().sort_index()
            for part in range(3)
        )
        has_all_tasks = first.shape[1] == num_tasks
        names.append(choice_name(arm, group["axis"].iloc[0]))
        pairs.append(
            _Pair(first.mean(axis=1), second.mean(axis=1), diverged.astype(bool).any(axis=1))
            if has_all_tasks
            else _NO_SCORES
        )
        differences_by_task.append((first - second).to_numpy(dtype=float))
    step_G = _steps(table, column, scores["task"].unique())
    tested = _tested(pairs, margin, np.full(len(pairs), np.sqrt((step_G**2).sum()) / num_tasks))
    tested = pd.concat([pd.DataFrame({"choice": names}), tested], axis=1)
    step = float(np.sqrt(2) * step_G.max())  # of a difference of two differences
    p_tasks = [p_alike(values_NG, LEVEL / len(differences_by_task), step=step) for values_NG in differences_by_task]
    return tested.assign(p_tasks=p_tasks, depends_on_task=depends_on_task(np.array(p_tasks), LEVEL))


def _paired(group: pd.DataFrame, base_runs: pd.DataFrame, column: str) -> _Pair:
    """Return the scores of a choice and of the baseline on the seeds that both have."""
    first, second = group.set_index("seed"), base_runs.set_index("seed")
    first = first[first.index.isin(second.index)]
    second = second.loc[first.index]
    return _Pair(first[column], second[column], first["diverged"] | second["diverged"])


def _steps(table: pd.DataFrame, column: str, tasks: Iterable[str]) -> Floats:
    """Return the change of a column's value by one question on each of the tasks."""
    by_task = steps_by_task(table, column)
    return np.array([by_task[task] for task in tasks], dtype=float)


def _tested(pairs: Sequence[_Pair], margin: float | None, step_K: Floats) -> pd.DataFrame:
    """Return the columns of `differences` for K comparisons, from their pairs and their changes by one question."""
    if not pairs:
        return pd.DataFrame(columns=_TESTED)
    first_NK, second_NK, diverged_NK = (
        np.asarray(pd.concat([scores.astype(float) for scores in part], axis=1).to_numpy(), dtype=float)
        for part in zip(*pairs, strict=True)
    )
    differences_NK = first_NK - second_NK
    sample = moments(differences_NK, step_K)
    intervals = simultaneous(differences_NK, LEVEL, step_K=step_K)
    deviation_K = np.where(sample.is_tested_K, sample.error_K * np.sqrt(sample.n_K), np.nan)
    num_tested, p_welch_K = max(int(sample.is_tested_K.sum()), 1), _p_welch(first_NK, second_NK)
    num_welch = max(int((~np.isnan(p_welch_K)).sum()), 1)  # NaN**0 would be 1
    return pd.DataFrame(
        {
            "difference": sample.mean_K,
            "low": sample.mean_K - intervals.half_K,
            "high": sample.mean_K + intervals.half_K,
            "n": sample.n_K,
            "p": p_two_sided(sample),
            "p_shared": intervals.p_K,
            "p_welch": p_welch_K,
            "p_welch_shared": 1 - (1 - p_welch_K) ** num_welch,
            "num_diverged": np.nansum(diverged_NK, axis=0).astype(int),
            "without_diverged": moments(np.where(diverged_NK == 0, differences_NK, np.nan)).mean_K,
            "p_equivalent": np.nan if margin is None else p_within(sample, margin),
            "detectable": [
                detectable_difference(float(deviation), int(n), num_comparisons=num_tested)
                for deviation, n in zip(deviation_K, sample.n_K, strict=True)
            ],
            "assumed_deviation": np.where(sample.is_constant_K, step_K, np.nan),
        }
    )


def _p_welch(first_NK: Floats, second_NK: Floats) -> Floats:
    """Return the p of Welch's two-sided unpaired test; NaN if a choice has too few scores, or no spread."""
    first, second = moments(first_NK), moments(second_NK)
    a_K, b_K = first.error_K**2, second.error_K**2
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom_K = (a_K + b_K) ** 2 / (a_K**2 / first.freedom_K + b_K**2 / second.freedom_K)
        p_K = 2 * p_above(np.abs(first.mean_K - second.mean_K) / np.sqrt(a_K + b_K), freedom_K)
    return np.where(first.is_tested_K & second.is_tested_K, p_K, np.nan)
