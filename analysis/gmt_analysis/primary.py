"""The verdicts on a study's primary questions, from its typed table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from gmt.axis import Axis
from gmt.studies.primary_scores import scores_of_rows
from gmt.verdicts.decide import decide
from gmt.verdicts.question import LEVEL, Question
from gmt.verdicts.question_noise import RightAnswers
from gmt.verdicts.verdict import Verdict


def primary_verdicts(
    table: pd.DataFrame,
    questions: Sequence[Question],
    *,
    axis: Axis,
    level: float = LEVEL,
    right_answers: Mapping[str, RightAnswers] | None = None,
) -> list[Verdict]:
    """Return the verdict on each question.

    Args:
        table: the typed table of a study.
        questions: the primary questions of the study.
        axis: the axis of the study.
        level: the probability of a false verdict on each question, e.g. gmt.studies.grid.StudySettings.level.
        right_answers: the right answers of all runs, by measure (gmt_analysis.right_answers); None: unknown.
    """
    notes, rows = _unfinished(table), table.astype(object).where(table.notna(), None).to_dict("records")
    return [
        decide(
            question,
            scores_of_rows(rows, question.measure),
            axis=axis,
            targets=scores_of_rows(rows, "target"),
            right_answers=None if right_answers is None else right_answers[question.measure],
            level=level,
            notes=notes,
        )
        for question in questions
    ]


def primary_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return the comparisons of all primary questions, a row for each, in fractions; empty without questions."""
    return pd.DataFrame([{"question": v.name, **vars(row)} for v in verdicts for row in v.comparisons])


def _unfinished(table: pd.DataFrame) -> list[str]:
    """Return a sentence if some runs are not finished or not counted, so that the answers may still change."""
    number = int((~table["state"].isin(["done", "diverged"])).sum())
    return [f"Preliminary: {number} of {len(table)} runs are not finished or not counted."] if number else []
