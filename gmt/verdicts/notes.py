"""The notes beside an answer, on comparisons that are less certain than they look."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gmt.verdicts.question import Question
from gmt.verdicts.verdict import Comparison
from gmt.verdicts.words import counted, points

_MOST_NAMED = 5


def notes_on(question: Question, rows: Sequence[Comparison]) -> list[str]:
    """Return sentences on diverged runs, on differences that other test questions might undo, on differences without
    spread, and on means over tasks that are not tested."""
    return [*_on_diverged(rows), *_on_questions(question, rows), *_on_constants(rows), *_on_tasks(rows)]


def _on_diverged(rows: Sequence[Comparison]) -> list[str]:
    diverged = [row for row in rows if row.num_diverged]
    if not diverged:
        return []
    estimates = "; ".join(
        f"{_name(row)} on {row.task} {100 * row.estimate_without_diverged:+.1f} points "
        f"instead of {100 * row.estimate:+.1f}"
        for row in diverged[:3]
    )
    return [f"Runs diverged in {counted(len(diverged))}, and count with the base's score. Without them: {estimates}."]


def _on_questions(question: Question, rows: Sequence[Comparison]) -> list[str]:
    """Return a sentence on differences that other test questions might undo, and one on such equivalences."""
    known, sentences = [row for row in rows if not math.isnan(row.low_questions)], []
    shown = [row for row in known if row.decision in ("better", "worse")]
    if unsure := [row for row in shown if row.low_questions <= 0 <= row.high_questions]:
        sentences.append(
            f"For other test questions, {len(unsure)} of {len(shown)} differences that are shown might vanish: "
            f"{_names(unsure)}."
        )
    within = [row for row in known if row.decision in ("equivalent", "not worse")]
    if unsure := [row for row in within if _may_exceed(question, row)]:
        limit = points(question.margin)
        sentences.append(
            f"For other test questions, {len(unsure)} of {len(within)} differences that are shown to be within {limit} "
            f"might exceed {limit}: {_names(unsure)}."
        )
    return sentences


def _may_exceed(question: Question, row: Comparison) -> bool:
    """Return whether the interval over seeds and questions crosses the margin that the decision is about."""
    low, high = row.low_questions, row.high_questions
    worst = low if question.more_is_better else -high
    return worst <= -question.margin or (row.decision == "equivalent" and max(-low, high) >= question.margin)


def _on_constants(rows: Sequence[Comparison]) -> list[str]:
    constant = [row for row in rows if not math.isnan(row.assumed_deviation)]
    if not constant:
        return []
    names = [f"{_name(row)} on {row.task} ({100 * row.assumed_deviation:.1f} points)" for row in constant[:_MOST_NAMED]]
    return [
        f"In {counted(len(constant))}, the difference is the same on all seeds, and the effect of one test question is "
        f"taken as its standard deviation: {', '.join(names)}."
    ]


def _on_tasks(rows: Sequence[Comparison]) -> list[str]:
    depends = [row for row in rows if row.decision == "depends on the task"]
    if not depends:
        return []
    return [f"The difference depends on the task, so that no mean over tasks is tested: {_names(depends)}."]


def _name(row: Comparison) -> str:
    return f"{row.choice} less {row.against}"


def _names(rows: Sequence[Comparison]) -> str:
    return ", ".join(_name(row) for row in rows[:_MOST_NAMED])
