"""The results of a study's tests, as tables and as sentences: "no difference shown" is not "no difference"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gmt.axis import Axis
from gmt.listed import some
from gmt.verdicts.power import POWER
from gmt.verdicts.question import FEWEST, LEVEL
from gmt_analysis.choices import Baseline, choice_name, join_values
from gmt_analysis.equivalence import Sensitivity, sensitivity
from gmt_analysis.paired import between_arms, differences, over_tasks

_LARGEST = 100  # points: no score differs by more
_MOST_PAIRS = 6  # of arms; if there are more, only the table compares arms at the same value
_MOST_WITH_SIZE = 5  # choices whose differences a sentence states; for more, it states directions only


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A compared column, which holds fractions and is shown in percentage points."""

    column: str
    name: str
    more_is_better: bool


MEASURES = (
    Measure(column="target_after", name="target score", more_is_better=True),
    Measure(column="forgetting", name="forgetting", more_is_better=False),
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of the tests on one measure.

    Args:
        measure: the measure.
        baseline: the baseline as sentences name it, e.g. `sft` or `sft at the same learning rate`.
        sentences: the results, each with the smallest difference that its test detects.
        to_baseline: the differences to the baseline, from `differences`; empty without a baseline.
        in_common: their means over tasks, from `over_tasks`; empty for one task.
        between: the differences between other arms, from `between_arms`; empty if no two of them share a value of the
            axis.
    """

    measure: Measure
    baseline: str
    sentences: tuple[str, ...]
    to_baseline: pd.DataFrame
    in_common: pd.DataFrame
    between: pd.DataFrame


def findings(table: pd.DataFrame, *, axis: Axis, baseline: str, margin: float) -> list[Findings]:
    """Return the findings on each of MEASURES.

    Args:
        table: the typed table of a study.
        axis: the axis of the study.
        baseline: the arm that all others are compared with.
        margin: a smaller difference of scores does not matter; a fraction.
    """
    return [_test(table, measure, axis, baseline, margin) for measure in MEASURES]


def as_table(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return rows of `to_baseline`, `in_common` or `between` in percentage points, and with the `words` for each."""
    points = {name: 100 * rows[name] for name in ("difference", "low", "high", "detectable")}
    return rows.assign(**points, words=[_direction(row, measure) for row in rows.to_dict("records")])


def _test(table: pd.DataFrame, measure: Measure, axis: Axis, baseline: str, margin: float) -> Findings:
    done = table[(table["state"] == "done") & table[measure.column].notna()]
    has_baseline = baseline in set(done["arm"]) and done["arm"].nunique() > 1
    pairs = differences(table, measure.column, baseline=baseline, margin=margin) if has_baseline else pd.DataFrame()
    several = has_baseline and done["task"].nunique() > 1
    common = over_tasks(table, measure.column, baseline=baseline, margin=margin) if several else pd.DataFrame()
    between = between_arms(table, measure.column, baseline=baseline, margin=margin)
    against = list(between.groupby("against", sort=False)) if len(between) else []
    has_few = len(between[["arm", "against"]].drop_duplicates()) <= _MOST_PAIRS
    sensitivities = sensitivity(table, measure.column, axis=axis, margin=margin, more_is_better=measure.more_is_better)
    baseline_name = Baseline.from_table(table, baseline).name(axis) if has_baseline else baseline
    sentences = [
        *([] if has_baseline else [_no_comparison(set(done["arm"]), baseline)]),
        *_on_baseline(pairs, measure, axis, baseline_name),
        *_on_tasks(common, measure, baseline_name),
        *(words for arm, rows in against if has_few for words in _on_baseline(rows, measure, axis, str(arm))),
        *_on_constants(pairs, measure, baseline_name),
        *(_on_axis(of_arm, measure, axis) for of_arm in sensitivities),
    ]
    return Findings(
        measure=measure,
        baseline=baseline_name,
        sentences=tuple(sentences),
        to_baseline=pairs,
        in_common=common,
        between=between,
    )


def _no_comparison(arms: set[str], baseline: str) -> str:
    if baseline in arms:
        return f"All finished runs are of the baseline arm {baseline}, so no comparison is shown."
    return f"The baseline arm {baseline} has no finished runs, so no comparison is shown."


def _on_baseline(pairs: pd.DataFrame, measure: Measure, axis: Axis, baseline: str) -> list[str]:
    sentences = []
    for (arm, task), group in pairs.groupby(["arm", "task"], sort=False) if len(pairs) else ():
        rows = group.to_dict("records")
        if len(rows) == 1:
            (row,) = rows
            size = "" if np.isnan(row["low"]) else f" ({_points(row)})"
            outcome = f"{_direction(row, measure)}{size}{_power_in_words(group)}"
            sentences.append(f"{task}: {measure.name} of {arm} against {baseline}: {outcome}.")
            continue
        by_words = {words: [r["axis"] for r in rows if _direction(r, measure) == words] for words in _WORDS}
        clauses = [f"{words} at {join_values(values)}" for words, values in by_words.items() if values]
        clauses[0] = clauses[0].replace(" at ", f" at {axis.name} ")
        sentences.append(
            f"{task}: {measure.name} of {arm} against {baseline}: {'; '.join(clauses)}{_power_in_words(group)}."
        )
    return sentences


def _power_in_words(rows: pd.DataFrame) -> str:
    """Return a sentence on the differences that these comparisons detect; empty without a test."""
    sizes = 100 * rows["detectable"].dropna()
    if sizes.empty:
        return ""
    if sizes.min() > _LARGEST:
        return f". No difference of up to {_LARGEST} points would be detected with a power of {POWER:.0%}"
    low, high = (f"{size:.1f}" if size <= _LARGEST else f"more than {_LARGEST}" for size in (sizes.min(), sizes.max()))
    return (
        f". Differences of {low if low == high else f'{low} to {high}'} points are detected with a power of {POWER:.0%}"
    )


def _on_tasks(common: pd.DataFrame, measure: Measure, baseline: str) -> list[str]:
    if common.empty:
        return []
    by_words: dict[str, list[dict[Any, Any]]] = {}
    for row in common.to_dict("records"):
        by_words.setdefault(_direction(row, measure), []).append(row)
    depends = [row["choice"] for row in by_words.pop(_DEPENDS, [])]
    shown = {words: by_words[words] for words in (_BETTER, _WORSE, _WELCH) if words in by_words}
    if sum(map(len, shown.values())) <= _MOST_WITH_SIZE:
        ends = {_WELCH: f", {_WELCH}"}
        clauses = [f"{r['choice']} {_points(r)}{ends.get(words, '')}" for words, rows in shown.items() for r in rows]
    else:
        clauses = [f"{words} {', '.join(row['choice'] for row in rows)}" for words, rows in shown.items()]
    if by_words and not shown:
        clauses = [next(iter(by_words)) if set(by_words) <= {_UNTESTED, _TOO_FEW} else _NONE]
    if depends:
        clauses.append(f"no mean of {', '.join(depends)}, whose difference {_DEPENDS}")
    power = _power_in_words(common)
    return [f"In the mean over tasks, {measure.name} less that of {baseline}: {'; '.join(clauses)}{power}."]


def _on_constants(pairs: pd.DataFrame, measure: Measure, baseline: str) -> list[str]:
    """Return a sentence if a choice differs by the same amount on all seeds."""
    constant = pairs[pairs["assumed_deviation"].notna()] if len(pairs) else pairs
    if constant.empty:
        return []
    names = some([f"{choice_name(row['arm'], row['axis'])} on {row['task']}" for row in constant.to_dict("records")])
    return [
        f"In {names}, the difference in {measure.name} to {baseline} is the same on all seeds, and the effect of one "
        "test question is taken as its standard deviation."
    ]


def _on_axis(of_arm: Sensitivity, measure: Measure, axis: Axis) -> str:
    chance = "" if np.isnan(of_arm.p_range) else f" (p {of_arm.p_range:.2g} for equal means)"
    index = (
        ""
        if np.isnan(of_arm.index)
        else f"; the range of the means is {of_arm.index:.1f} standard deviations over seeds{chance}"
    )
    detectable = (
        f". With {of_arm.num_seeds} seeds a difference of {100 * of_arm.detectable:.1f} points is detected with a "
        f"power of {POWER:.0%}"
        if of_arm.detectable <= _LARGEST / 100
        else ""
    )
    several = f" over {of_arm.num_values} {axis.plural}" if of_arm.num_values > 1 else ""
    return f"{of_arm.task}: {measure.name} of {of_arm.arm}{several}: {of_arm.words}{index}{detectable}."


_BETTER, _WORSE, _NONE, _UNTESTED = "better", "worse", "no difference shown", "not tested"
_TOO_FEW = f"not tested (fewer than {FEWEST} common seeds)"
_EQUIVALENT = "equivalent by itself"  # by the test of this comparison alone, uncorrected
_WELCH = "different by Welch's test alone"  # unpaired, Sidak's correction; the paired test shows no difference
_DEPENDS = "depends on the task"
_WORDS = (_BETTER, _WORSE, _EQUIVALENT, _WELCH, _NONE, _TOO_FEW, _UNTESTED)


def _direction(row: Mapping[Any, Any], measure: Measure) -> str:
    if np.isnan(row["p_shared"]):
        return _TOO_FEW if row["n"] < FEWEST else _UNTESTED
    if row.get("depends_on_task", False):
        return _DEPENDS
    if not row["p_shared"] <= LEVEL:
        if row["p_equivalent"] < LEVEL:
            return _EQUIVALENT
        return _WELCH if row["p_welch_shared"] <= LEVEL else _NONE
    return _BETTER if (row["difference"] > 0) == measure.more_is_better else _WORSE


def _points(row: Mapping[Any, Any]) -> str:
    return f"{100 * row['difference']:+.1f} points [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
