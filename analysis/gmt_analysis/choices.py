"""What a study compares: choices, each an arm on a task at a value of the axis, and the baseline of all."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from gmt.axis import Axis
from gmt.errors import UserError

CHOICE = ["arm", "task", "axis"]


def named(arm: object, value: float) -> str:
    """An arm at a value of the axis, e.g. `gmt 0.5`; the arm where it does not have the axis."""
    return str(arm) if pd.isna(value) else f"{arm} {value:g}"


def listed(values: list[float]) -> str:
    """Values of the axis in a sentence."""
    return ", ".join(f"{value:g}" for value in values)


def scores_of(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The finished runs that have a number in a column: CHOICE, seed and that column."""
    done = table[(table["state"] == "done") & table[column].notna()]
    return done[[*CHOICE, "seed", column]].astype({column: float, "axis": float, "seed": int})


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The arm that every other is held against on the same seed.

    An arm without the axis, or at one value of it, is one choice, and all others are held against it. An arm at several
    values is held against others at the same value.

    Args:
        arm: its name.
        values: of the axis that its runs have, finished or not; empty without the axis.
    """

    arm: str
    values: tuple[float, ...]

    @classmethod
    def of(cls, table: pd.DataFrame, arm: str) -> Baseline:
        """The baseline of a study.

        Raises:
            UserError: no run of the arm is finished.
        """
        own = table[table["arm"] == arm]
        if not (own["state"] == "done").any():
            raise UserError(f"study.baseline must be an arm with finished runs, got {arm!r}")
        return cls(arm=arm, values=tuple(sorted(own["axis"].dropna().astype(float).unique())))

    @property
    def is_at_same_value(self) -> bool:
        """Whether a choice is held against the baseline's runs at the choice's own value of the axis."""
        return len(self.values) > 1

    def runs(self, scores: pd.DataFrame, value: float) -> pd.DataFrame:
        """The baseline's rows of `scores_of` that a choice at this value of the axis is held against."""
        own = scores[scores["arm"] == self.arm]
        return own[own["axis"] == value] if self.is_at_same_value else own

    def name(self, axis: Axis) -> str:
        """The baseline in a sentence, e.g. `sft` or `sft at the same learning rate`."""
        if self.is_at_same_value:
            return f"{self.arm} at the same {axis.name}"
        return named(self.arm, self.values[0]) if self.values else self.arm
