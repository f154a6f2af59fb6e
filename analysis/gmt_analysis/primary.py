"""The verdicts on a study's primary questions, from its typed table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gmt.axis import Axis
from gmt.verdicts.decide import decide
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question import LEVEL, Question
from gmt.verdicts.question_noise import Right
from gmt.verdicts.scores import ScoredRun, Scores, scores_of
from gmt.verdicts.verdict import Verdict

# Measure -> its column, and that of the base's score; None: the base forgets nothing.
_COLUMNS: Mapping[str, tuple[str, str | None]] = {
    "target": ("target_after", "target_before"),
    "forgetting": ("forgetting", None),
}


def primary_verdicts(
    table: pd.DataFrame,
    questions: Sequence[Question],
    *,
    axis: Axis,
    level: float = LEVEL,
    right: Mapping[str, Right] | None = None,
) -> list[Verdict]:
    """Return the verdict on each question.

    Args:
        table: the typed table of a study.
        questions: of the study.
        axis: of the study.
        level: of each question, e.g. gmt.studies.grid.StudySettings.level, which questions and looks share.
        right: by measure, the answers to each question (gmt_analysis.right_answers); None: unknown.
    """
    notes = _unfinished(table)
    return [
        decide(
            question,
            scores_of_measure(table, question.measure),
            axis=axis,
            targets=scores_of_measure(table, "target"),
            right=None if right is None else right[question.measure],
            level=level,
            notes=notes,
        )
        for question in questions
    ]


def primary_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return the comparisons of all primary questions, a row for each, in fractions; empty without questions."""
    return pd.DataFrame([{"question": v.name, **vars(row)} for v in verdicts for row in v.comparisons])


def scores_of_measure(table: pd.DataFrame, measure: str) -> Scores:
    """Return the scores of the runs that are done or diverged, by choice and task."""
    column, base = _COLUMNS[measure]

    def scored(row: dict[Any, Any]) -> ScoredRun:
        choice = Choice(str(row["arm"]), None if pd.isna(row["axis"]) else float(row["axis"]))
        value = None if pd.isna(row[column]) else float(row[column])
        of_base = 0.0 if base is None else float("nan") if pd.isna(row[base]) else float(row[base])
        known = value is not None and not math.isnan(of_base)
        return ScoredRun(
            choice, str(row["task"]), int(row["seed"]), str(row["state"]), value, of_base if known else None
        )

    return scores_of(scored(row) for row in table[table["seed"].notna()].to_dict("records"))


def _unfinished(table: pd.DataFrame) -> list[str]:
    """Return a sentence if the answers may still change, since runs are not over."""
    number = int((~table["state"].isin(["done", "diverged"])).sum())
    return [f"Preliminary: {number} of {len(table)} runs are not finished or not counted."] if number else []
