"""The choices that a study compares: each is an arm on a task at a value of the axis; one arm is the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.verdicts.one_question import least_difference

CHOICE = ["arm", "task", "axis"]
_STEPS = {"target_after": "target_step", "forgetting": "source_step"}  # column -> its change by one question
FEW_SEEDS = 5  # with fewer, reports show each seed: a t interval over two or three says next to nothing


def choice_name(arm: object, value: float) -> str:
    """Return an arm and its value of the axis, e.g. `gmt 0.5`; the arm alone where it does not have the axis."""
    return str(arm) if pd.isna(value) else f"{arm} {value:g}"


def join_values(values: list[float]) -> str:
    """Return values of the axis for a sentence, e.g. `0.1, 0.5`."""
    return ", ".join(f"{value:g}" for value in values)


def scores_of(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the finished runs that have a seed, and a number in a column: CHOICE, seed and that column."""
    done = table[(table["state"] == "done") & table[[column, "seed"]].notna().all(axis=1)]
    return done[[*CHOICE, "seed", column]].astype({column: float, "axis": float, "seed": int})


def steps_by_task(table: pd.DataFrame, column: str) -> dict[str, float]:
    """Return by task the change of a column's value by one question, for pairs that all differ by the same amount.

    Where the table does not have it, it is the least difference between two values on the task; NaN without one.
    """
    own, name = scores_of(table, column), _STEPS.get(column, "")
    steps = {str(task): least_difference(values.tolist()) for task, values in own.groupby("task")[column]}
    known = table.groupby("task")[name].max().dropna() if name in table else pd.Series(dtype=float)
    return {task: float(known.get(task, step)) for task, step in steps.items()}


def ranges_of(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the least (`COLUMN_least`) and the most (`COLUMN_most`) over the finished runs of each choice."""
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
        own = table[table["arm"] == arm]
        if not (own["state"] == "done").any():
            raise UserError(f"study.baseline must be an arm with finished runs, got {arm!r}")
        return cls(arm=arm, values=tuple(sorted(own["axis"].dropna().astype(float).unique())))

    @property
    def is_at_same_value(self) -> bool:
        """Whether a choice is compared with the baseline's runs at the choice's own value of the axis."""
        return len(self.values) > 1

    def runs(self, scores: pd.DataFrame, value: float) -> pd.DataFrame:
        """Return the rows of the baseline that a choice at this value of the axis is compared with.

        Args:
            scores: from `scores_of`.
            value: of the axis; NaN for a choice without it.
        """
        own = scores[scores["arm"] == self.arm]
        return own[own["axis"] == value] if self.is_at_same_value else own

    def name(self, axis: Axis) -> str:
        """Return the baseline in words, e.g. `sft` or `sft at the same learning rate`."""
        if self.is_at_same_value:
            return f"{self.arm} at the same {axis.name}"
        return choice_name(self.arm, self.values[0]) if self.values else self.arm
