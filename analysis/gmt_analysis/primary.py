"""The verdicts on a study's primary questions, from its typed table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from gmt.axis import Axis
from gmt.verdicts.decide import Score, Scores, decide
from gmt.verdicts.intervals import LEVEL
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question import Question
from gmt.verdicts.verdict import Verdict

# Measure -> its column, and the base's score, which a run that diverged counts with; None: 0, since the base forgets
# nothing.
_COLUMNS: Mapping[str, tuple[str, str | None]] = {
    "target": ("target_after", "target_before"),
    "forgetting": ("forgetting", None),
}


def primary_verdicts(table: pd.DataFrame, questions: Sequence[Question], *, axis: Axis) -> list[Verdict]:
    """Return the verdict on each question; the questions share the level.

    Args:
        table: the typed table of a study.
        questions: of the study.
        axis: of the study.
    """
    level = LEVEL / max(len(questions), 1)
    notes = _unfinished(table)
    return [
        decide(
            question,
            scores_of_measure(table, question.measure),
            axis=axis,
            targets=scores_of_measure(table, "target"),
            level=level,
            notes=notes,
        )
        for question in questions
    ]


def primary_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return the comparisons of all primary questions, a row for each, in fractions; empty without questions."""
    return pd.DataFrame([{"question": v.name, **vars(row)} for v in verdicts for row in v.comparisons])


def scores_of_measure(table: pd.DataFrame, measure: str) -> Scores:
    """Return the scores of the runs that are done or diverged, by choice and task.

    A run that diverged counts with the base's score, which other runs on its task give.
    """
    column, base = _COLUMNS[measure]
    bases = {} if base is None else table.groupby("task")[base].mean().dropna().to_dict()
    scores: dict[tuple[Choice, str], dict[int, Score]] = {}
    for row in table[table["seed"].notna()].to_dict("records"):
        value = row[column] if row["state"] == "done" else pd.NA
        if row["state"] == "diverged":
            value = 0.0 if base is None else bases.get(row["task"], pd.NA)
        choice = Choice(str(row["arm"]), None if pd.isna(row["axis"]) else float(row["axis"]))
        own = scores.setdefault((choice, str(row["task"])), {})
        if not pd.isna(value):
            own[int(row["seed"])] = Score(float(value), diverged=row["state"] == "diverged")
    return scores


def _unfinished(table: pd.DataFrame) -> list[str]:
    """Return a sentence if the answers may still change, since runs are not over."""
    number = int((~table["state"].isin(["done", "diverged"])).sum())
    return [f"Preliminary: {number} of {len(table)} runs are not finished or not counted."] if number else []
