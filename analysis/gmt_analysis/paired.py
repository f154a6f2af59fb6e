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
    """The scores of both sides by seed, of the seeds that both have, and whether a run of either diverged."""

    own: pd.Series[float]
    other: pd.Series[float]
    diverged: pd.Series[bool]


_NO_SCORES = _Pair(pd.Series(dtype=float), pd.Series(dtype=float), pd.Series(dtype=bool))


def differences(table: pd.DataFrame, column: str, *, baseline: str, margin: float | None = None) -> pd.DataFrame:
    """Return each choice less the baseline on the same seed.

    Args:
        table: of a study.
        column: the compared column.
        baseline: an arm, e.g. `sft`; gmt_analysis.choices.Baseline says which of its runs a choice is compared with.
        margin: of equivalence; None: equivalence is not tested.

    Returns:
        A row for each other arm, task and value of the axis:
        `difference`; `n` pairs; `low` and `high` of intervals that are simultaneous for all rows
        (gmt.verdicts.intervals.simultaneous); `p_shared`, at most LEVEL if and only if its interval excludes 0; `p` of
        the row alone by Student's two-sided paired test; `p_welch` of the row alone by Welch's test without pairs, for
        seeds that move both choices in opposite ways, and `p_welch_shared` corrected for all rows (Sidak, 1967);
        `p_equivalent` of two one-sided paired t tests, of the row alone; and `detectable`: the smallest difference that
        is detected with a power of POWER, with Bonferroni's correction for all rows that are tested. Pairs with the
        same score have a difference of exactly 0. Pairs that all differ by the same amount get a standard deviation of
        one question, which is `assumed_deviation`. With fewer than three pairs there is no test and p is missing.
        `num_diverged` counts the pairs in which a run diverged (gmt_analysis.choices.with_base_scores);
        `without_diverged` is the mean of the others.

    Raises:
        UserError: the study has no such arm with a finished run.
    """
    scores, base = scores_of(table, column), Baseline.from_table(table, baseline)
    of_task: dict[Any, pd.DataFrame] = dict(list(scores[scores["arm"] == baseline].groupby("task")))
    rows, pairs = [], []
    for (arm, task, value), group in scores[scores["arm"] != baseline].groupby(CHOICE, dropna=False, sort=False):
        others = base.runs(of_task.get(task, scores.iloc[:0]), group["axis"].iloc[0])
        pairs.append(_paired(group, others, column))
        rows.append({"arm": arm, "task": task, "axis": value})
    known = pd.DataFrame(rows, columns=CHOICE)
    return pd.concat([known, _tested(pairs, margin, _steps(table, column, known["task"]))], axis=1)


def between_arms(table: pd.DataFrame, column: str, *, baseline: str, margin: float | None = None) -> pd.DataFrame:
    """Return each arm less each later one at the same value of the axis and on the same seed, e.g. gmt less rmt at 0.9.

    The baseline, with which `differences` compares, is left out, and so are arms without the axis.

    Returns:
        A row for each pair of arms, task and value that both have: `arm`, `against`, `task`, `axis`, and the other
        columns of `differences`, whose intervals are simultaneous for all rows here.
    """
    scores = scores_of(table, column)
    own = scores[scores["axis"].notna() & (scores["arm"] != baseline)]
    arms, rows, pairs = list(own["arm"].unique()), [], []
    for (task, value), group in own.groupby(["task", "axis"], sort=False):
        of_arm: dict[Any, pd.DataFrame] = dict(list(group.groupby("arm")))
        for arm, against in itertools.combinations([arm for arm in arms if arm in of_arm], 2):
            rows.append({"arm": arm, "against": against, "task": task, "axis": value})
            pairs.append(_paired(of_arm[arm], of_arm[against], column))
    known = pd.DataFrame(rows, columns=BETWEEN)
    return pd.concat([known, _tested(pairs, margin, _steps(table, column, known["task"]))], axis=1)


def over_tasks(table: pd.DataFrame, column: str, *, baseline: str, margin: float | None = None) -> pd.DataFrame:
    """Return each choice less the baseline in the mean over tasks, seed by seed.

    The mean over tasks of a seed's differences is one number, and `n` counts seeds. Nothing is said of other tasks.

    Returns:
        A row for each arm and value of the axis but the baseline: `choice`, the columns of `differences`, `p_tasks` of
        the test that the difference is the same on all tasks (gmt.verdicts.all_pairs), and `depends_on_task`: whether
        it is not, so that its mean says little. Empty without a baseline.
    """
    scores = scores_of(table, column)
    if baseline not in set(scores["arm"]):
        return pd.DataFrame(columns=["choice", *_TESTED, "p_tasks", "depends_on_task"])
    base, num_tasks = Baseline.from_table(table, baseline), scores["task"].nunique()
    of_baseline = scores[scores["arm"] == baseline]
    names, pairs, of_tasks = [], [], []
    for (arm, _), group in scores[scores["arm"] != baseline].groupby(["arm", "axis"], dropna=False, sort=False):
        base_by_task = dict(list(base.runs(of_baseline, group["axis"].iloc[0]).groupby("task")))
        by_task = {}
        for task, of_task in group.groupby("task"):
            pair = _paired(of_task, base_by_task.get(task, of_task.iloc[:0]), column)
            if len(pair.own):
                by_task[task] = pair
        own, other, diverged = (
            pd.DataFrame({task: pair[side] for task, pair in by_task.items()}).dropna().sort_index()
            for side in range(3)
        )
        is_whole = own.shape[1] == num_tasks
        names.append(choice_name(arm, group["axis"].iloc[0]))
        pairs.append(
            _Pair(own.mean(axis=1), other.mean(axis=1), diverged.astype(bool).any(axis=1)) if is_whole else _NO_SCORES
        )
        of_tasks.append((own - other).to_numpy(dtype=float))
    step_G = _steps(table, column, scores["task"].unique())
    tested = _tested(pairs, margin, np.full(len(pairs), np.sqrt((step_G**2).sum()) / num_tasks))
    tested = pd.concat([pd.DataFrame({"choice": names}), tested], axis=1)
    step = float(np.sqrt(2) * step_G.max())  # of a difference of two differences
    p_tasks = [p_alike(wide_NG, LEVEL / len(of_tasks), step=step) for wide_NG in of_tasks]
    return tested.assign(p_tasks=p_tasks, depends_on_task=depends_on_task(np.array(p_tasks), LEVEL))


def _paired(group: pd.DataFrame, base_runs: pd.DataFrame, column: str) -> _Pair:
    """Return the scores of a choice and of the baseline on the seeds that both have."""
    own, other = group.set_index("seed"), base_runs.set_index("seed")
    own = own[own.index.isin(other.index)]
    other = other.loc[own.index]
    return _Pair(own[column], other[column], own["diverged"] | other["diverged"])


def _steps(table: pd.DataFrame, column: str, tasks: Iterable[str]) -> Floats:
    """Return the change of a column's value by one question on each of the tasks."""
    by_task = steps_by_task(table, column)
    return np.array([by_task[task] for task in tasks], dtype=float)


def _tested(pairs: Sequence[_Pair], margin: float | None, step_K: Floats) -> pd.DataFrame:
    """Return the tests of comparisons, from the scores of both sides of each, and their change by one question."""
    if not pairs:
        return pd.DataFrame(columns=_TESTED)
    own_NK, other_NK, diverged_NK = (
        np.asarray(pd.concat([side.astype(float) for side in part], axis=1).to_numpy(), dtype=float)
        for part in zip(*pairs, strict=True)
    )
    differences_NK = own_NK - other_NK
    sample = moments(differences_NK, step_K)
    together = simultaneous(differences_NK, LEVEL, step_K=step_K)
    deviation_K = np.where(sample.is_tested_K, sample.error_K * np.sqrt(sample.n_K), np.nan)
    num_tested, p_welch_K = max(int(sample.is_tested_K.sum()), 1), _p_welch(own_NK, other_NK)
    return pd.DataFrame(
        {
            "difference": sample.mean_K,
            "low": sample.mean_K - together.half_K,
            "high": sample.mean_K + together.half_K,
            "n": sample.n_K,
            "p": p_two_sided(sample),
            "p_shared": together.p_K,
            "p_welch": p_welch_K,
            "p_welch_shared": 1 - (1 - p_welch_K) ** int((~np.isnan(p_welch_K)).sum()),
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


def _p_welch(own_NK: Floats, other_NK: Floats) -> Floats:
    """Return p of Welch's two-sided test without pairs; NaN where a side has too few scores, or no spread."""
    own, other = moments(own_NK), moments(other_NK)
    own_K, other_K = own.error_K**2, other.error_K**2
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom_K = (own_K + other_K) ** 2 / (own_K**2 / own.freedom_K + other_K**2 / other.freedom_K)
        p_K = 2 * p_above(np.abs(own.mean_K - other.mean_K) / np.sqrt(own_K + other_K), freedom_K)
    return np.where(own.is_tested_K & other.is_tested_K, p_K, np.nan)
