"""The choices that a study compares: each is an arm on a task at a value of the axis; one arm is the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.studies.primary_scores import SCORE_COLUMNS
from gmt.verdicts.one_question import least_difference

CHOICE = ["arm", "task", "axis"]
_STEPS = {"target_after": "target_step", "forgetting": "source_step"}  # column -> column of its change by one question
_BASE_SCORES = "has_base_scores"  # a column
FEW_SEEDS = 5  # with fewer, reports show each seed, since a t interval over two or three seeds is too wide to help


def choice_name(arm: object, value: float) -> str:
    """Return an arm and its value of the axis, e.g. `gmt 0.5`; the arm alone where it does not have the axis."""
    return str(arm) if pd.isna(value) else f"{arm} {value:g}"


def join_values(values: list[float]) -> str:
    """Return values of the axis for a sentence, e.g. `0.1, 0.5`."""
    return ", ".join(f"{value:g}" for value in values)


def scores_of(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the scores of the finished runs, and of those that `with_base_scores` counts.

    Returns:
        A row for each run that has a seed and a number in the column: CHOICE, seed, the column, and `diverged`: whether
        the number is the base's.
    """
    diverged = has_base_scores(table)
    is_counted = ((table["state"] == "done") | diverged) & table[[column, "seed"]].notna().all(axis=1)
    counted = table[is_counted].assign(diverged=diverged[is_counted])
    return counted[[*CHOICE, "seed", column, "diverged"]].astype({column: float, "axis": float, "seed": int})


def with_base_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table in which runs that diverged have the base's scores, as in answers to primary questions.

    The base's score is taken from other runs on the task; if there are none, a diverged run has no score.
    """
    diverged, done = table["state"] == "diverged", table[table["state"] == "done"]
    scores = {}
    for column, base in SCORE_COLUMNS.values():
        known = done.groupby("task")[column if base is None else base].first()
        base_scores = table["task"].map(known if base is not None else 0 * known)
        scores[column] = table[column].mask(diverged, base_scores.astype("Float64"))
    return table.assign(**scores, **{_BASE_SCORES: diverged})


def has_base_scores(table: pd.DataFrame) -> pd.Series[bool]:
    """Return whether each run diverged and has the base's scores, by `with_base_scores`."""
    if _BASE_SCORES not in table:
        return pd.Series(data=False, index=table.index)
    return table[_BASE_SCORES].astype("boolean").fillna(value=False).astype(bool)


def steps_by_task(table: pd.DataFrame, column: str) -> dict[str, float]:
    """Return the change of a column's value by one question, by task; tests need it for differences without spread.

    If the table lacks the number of questions, the least difference between two values on the task takes its place;
    NaN if all values are the same.
    """
    scores, name = scores_of(table, column), _STEPS.get(column, "")
    steps = {str(task): least_difference(values.tolist()) for task, values in scores.groupby("task")[column]}
    known = table.groupby("task")[name].max().dropna() if name in table else pd.Series(dtype=float)
    return {task: float(known.get(task, step)) for task, step in steps.items()}


def ranges_of(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the smallest (`COLUMN_least`) and the largest value (`COLUMN_most`) of each choice's finished runs."""
    groups = table[table["state"] == "done"].groupby(CHOICE, dropna=False, sort=False)[list(columns)]
    return pd.concat([groups.min().add_suffix("_least"), groups.max().add_suffix("_most")], axis=1).reset_index()


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The arm that every other arm is compared with on the same seed.

    A baseline without the axis, or at one value of it, is one choice, and all other choices are compared with it. A
    baseline at several values is compared with others at the same value.

    Args:
        arm: the name of the arm.
        values: the values of the axis that its runs have, finished or not; empty without the axis.
    """

    arm: str
    values: tuple[float, ...]

    @classmethod
    def from_table(cls, table: pd.DataFrame, arm: str) -> Baseline:
        """Return the baseline of a study.

        Raises:
            UserError: no run of the arm is finished.
        """
        runs = table[table["arm"] == arm]
        if not (runs["state"] == "done").any():
            raise UserError(f"study.baseline must be an arm with finished runs, got {arm!r}")
        return cls(arm=arm, values=tuple(sorted(runs["axis"].dropna().astype(float).unique())))

    @property
    def is_at_same_value(self) -> bool:
        """Whether a choice is compared with the baseline's runs at the choice's own value of the axis."""
        return len(self.values) > 1

    def runs(self, scores: pd.DataFrame, value: float) -> pd.DataFrame:
        """Return the rows of the baseline that a choice at this value of the axis is compared with.

        Args:
            scores: from `scores_of`.
            value: the choice's value of the axis; NaN for a choice without the axis.
        """
        baseline = scores[scores["arm"] == self.arm]
        return baseline[baseline["axis"] == value] if self.is_at_same_value else baseline

    def name(self, axis: Axis) -> str:
        """Return the baseline in words, e.g. `sft` or `sft at the same learning rate`."""
        if self.is_at_same_value:
            return f"{self.arm} at the same {axis.name}"
        return choice_name(self.arm, self.values[0]) if self.values else self.arm
