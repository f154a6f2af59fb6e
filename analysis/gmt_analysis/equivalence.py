"""How an arm's score depends on the axis: is it worse than at its best value, is it equivalent within a margin?

Everything here takes the typed table of a study (gmt.tracking.table), as gmt_analysis.paired does. Values are those of
the study's axis, e.g. mask ratios.
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
from gmt_analysis.choices import listed, scores_of
from gmt_analysis.paired import is_tested, p_of
from gmt_analysis.power import ALPHA, FEWEST, detectable_difference
from gmt_analysis.statistics import mean_interval


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a study shows of an arm's sensitivity to the axis on one task.

    Args:
        arm, task: of which.
        num_values, num_seeds: values of the axis that are compared, and seeds that every value has.
        best: the value with the best mean.
        index: the range of the means over values, in units of the seeds' standard deviation at a value; NaN where
            there is none.
        detectable: the smallest difference between two values that the study finds with a power of POWER, with the
            level shared out over all pairs.
        words: what the tests say, and no more.
    """

    arm: str
    task: str
    num_values: int
    num_seeds: int
    best: float
    index: float
    detectable: float
    words: str


def against_best(table: pd.DataFrame, column: str, *, margin: float, more_is_better: bool = True) -> pd.DataFrame:
    """Every value of an arm against the arm's best on the same seed: is it worse, is it equivalent within the margin?

    The best is chosen by the same data, which makes the others look worse by chance: equivalence is claimed too seldom
    rather than too often, and for differences the level is shared out over all pairs of values, whichever is the best.

    Args:
        table: of a study.
        column: what is compared.
        margin: differences smaller than this do not matter; in the units of the column, above 0.
        more_is_better: whether the best is the largest.

    Returns:
        A row for each arm with the axis, task and value but the best: `best`, `difference` with `low` and `high`, `n`,
        `p` as in `differences`, `p_pairs`: p times the number of pairs of values (Bonferroni), and `p_equivalent` of
        two one-sided paired t tests (Schuirmann, 1987). That all values are equivalent is shown where each one's is
        below the level, uncorrected (Berger, 1982).

    Raises:
        UserError: the margin is not above 0.
    """
    if not margin > 0:
        raise UserError(f"the margin of equivalence must be above 0, got {margin}")
    found = []
    for (arm, task), group in _along_axis(table, column):
        wide = _seeds_by_values(group, column)
        if wide.empty:
            continue
        best = _best(wide, more_is_better)
        rows = [
            {"arm": arm, "task": task, "axis": value, "best": best} | _tested(each, margin)
            for value, each in _to_best(wide, best).items()
        ]
        if rows:
            tests, num_pairs = pd.DataFrame(rows), wide.shape[1] * (wide.shape[1] - 1) / 2
            found.append(tests.assign(p_pairs=(tests["p"] * num_pairs).clip(upper=1)))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def sensitivity(
    table: pd.DataFrame, column: str, *, axis: Axis, margin: float, more_is_better: bool = True
) -> list[Verdict]:
    """What the study shows of each arm with the axis on each task; arguments as of `against_best`."""
    tests = against_best(table, column, margin=margin, more_is_better=more_is_better)
    verdicts = []
    for (arm, task), group in _along_axis(table, column):
        wide = _seeds_by_values(group, column)
        if wide.empty:
            continue
        own = tests[(tests["arm"] == arm) & (tests["task"] == task)] if len(tests) else tests
        spread = float(np.sqrt(wide.var(ddof=1).mean())) if len(wide) > 1 else float("nan")
        means, best = wide.mean(), _best(wide, more_is_better)
        others = [each.var(ddof=1) for each in _to_best(wide, best).values()] if len(wide) > 1 else []
        verdicts.append(
            Verdict(
                arm=str(arm),
                task=str(task),
                num_values=wide.shape[1],
                num_seeds=len(wide),
                best=best,
                index=float(means.max() - means.min()) / spread if spread and others else float("nan"),
                detectable=detectable_difference(
                    float(np.sqrt(np.mean(others))) if others else float("nan"),
                    len(wide),
                    num_comparisons=wide.shape[1] * (wide.shape[1] - 1) // 2 or 1,
                ),
                words=_words(own, wide, axis) + _left_out(table, arm, task),
            )
        )
    return verdicts


def _along_axis(table: pd.DataFrame, column: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    scores = scores_of(table, column)
    yield from scores[scores["axis"].notna()].groupby(["arm", "task"], sort=False)


def _seeds_by_values(group: pd.DataFrame, column: str) -> pd.DataFrame:
    """Only seeds that every value has."""
    return group.pivot_table(index="seed", columns="axis", values=column).dropna()


def _best(wide: pd.DataFrame, more_is_better: bool) -> float:
    means = wide.mean().to_numpy()
    return float(wide.columns.to_numpy()[means.argmax() if more_is_better else means.argmin()])


def _to_best(wide: pd.DataFrame, best: float) -> dict[float, np.ndarray]:
    """Each other value less the best, by seed."""
    of_best = wide[best].to_numpy()
    return {value: wide[value].to_numpy() - of_best for value in wide.columns.to_numpy() if value != best}


def _tested(each: np.ndarray, margin: float) -> dict[str, float]:
    mean = mean_interval(each.tolist())
    both = {"difference": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "p": p_of(each)}
    return both | {"p_equivalent": _p_equivalent(each, margin)}


def _p_equivalent(each: np.ndarray, margin: float) -> float:
    if not is_tested(each):
        return float("nan")
    below = stats.ttest_1samp(each, -margin, alternative="greater").pvalue
    above = stats.ttest_1samp(each, margin, alternative="less").pvalue
    return float(max(below, above))


def _words(tests: pd.DataFrame, wide: pd.DataFrame, axis: Axis) -> str:
    if wide.shape[1] < 2:
        return f"one {axis.name}: nothing is said of sensitivity"
    if len(wide) < FEWEST:
        return f"{len(wide)} seed{'s' if len(wide) > 1 else ''}: nothing is said of sensitivity"
    if tests["p"].isna().all():
        return "no spread between seeds: nothing is tested"
    equivalent, worse = tests["p_equivalent"] < ALPHA, tests["p_pairs"] < ALPHA
    if equivalent.all():
        return f"every {axis.name} is equivalent to the best within the margin"
    if different := listed(tests.loc[worse & ~equivalent, "axis"].tolist()):
        return f"sensitive: worse than the best at {axis.name} {different}"
    return f"no difference to the best shown at any {axis.name}, nor equivalence within the margin at every {axis.name}"


def _left_out(table: pd.DataFrame, arm: object, task: object) -> str:
    """What the words before do not speak of: values whose runs diverged, or are not done."""
    own = table[(table["arm"] == arm) & (table["task"] == task) & table["axis"].notna()]
    told = []
    for words, rows in {
        "diverged": own[own["state"] == "diverged"],
        "not done": own[~own["state"].isin(["done", "diverged"])],
    }.items():
        if len(rows):
            told.append(f"{words} at {listed(sorted(rows['axis'].unique()))}")
    return f" (left out: runs that are {'; '.join(told)})" if told else ""
