"""The questions that each run answered right, from the run records."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gmt.records.record import RunRecord
from gmt.verdicts.intervals import Floats
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question_noise import RightAnswers

_PARTS = {"target": "target", "forgetting": "source"}
_FILE = "answers_after.jsonl"


def right_answers(
    runs: Iterable[tuple[Choice, str, int, RunRecord]], measures: Collection[str]
) -> dict[str, RightAnswers]:
    """Return the questions that were answered right after training, by measure. Each record is read once.

    A run whose score is no mean over suites of the share of right answers, as that of lm-eval's benchmarks may be, or
    whose answers are not there, is left out.

    Args:
        runs: choice, task, seed and record of finished runs.
        measures: of `target` and `forgetting`, which asks the source.
    """
    by_measure: dict[str, dict[tuple[Choice, str], dict[int, Mapping[str, Floats]]]] = {name: {} for name in measures}
    for choice, task, seed, record in runs if measures else ():
        if not (record.folder / _FILE).exists():
            continue
        scores, rows = record.result().after, record.read_lines(_FILE)
        for measure, by_choice in by_measure.items():
            part = _PARTS[measure]
            if (own := _right_by_suite([row for row in rows if row["part"] == part], scores[part])) is not None:
                by_choice.setdefault((choice, task), {})[seed] = own
    return {**by_measure}


def _right_by_suite(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, float]) -> Mapping[str, Floats] | None:
    """Return 1 for each question that was answered right and else 0, by suite; None if the scores are no such means."""
    by_suite: dict[str, list[Any]] = {suite: [] for suite in scores if suite != "mean"}
    for row in rows:
        if row["suite"] in by_suite:
            by_suite[row["suite"]].append(row.get("score"))
    answers = {suite: np.array([score == 1 for score in own], dtype=float) for suite, own in by_suite.items()}
    is_mean = all(len(own) and math.isclose(own.mean(), scores[suite], abs_tol=1e-9) for suite, own in answers.items())
    return answers if answers and is_mean else None
