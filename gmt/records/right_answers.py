"""Finds the questions that a finished run answered right, from the answers in its record."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmt.records.record import RunRecord

Right = Mapping[str, NDArray[np.float64]]  # by suite, of shape [questions]: 1 for a right answer, else 0


def right_answers_in(record: RunRecord, when: str, parts: Collection[str]) -> dict[str, Right]:
    """Return which questions a finished run answered right, by part; parts of which this is unknown are left out.

    Args:
        record: the run's record.
        when: `before` or `after` the training.
        parts: some of `target` and `source`.
    """
    name = f"answers_{when}.jsonl"
    if not parts or not (record.folder / name).exists():
        return {}
    rows, scores = record.read_lines(name), getattr(record.result(), when)
    return {part: right for part in parts if (right := _right_by_suite(rows, part, scores[part])) is not None}


def _right_by_suite(rows: Sequence[Mapping[str, Any]], part: str, scores: Mapping[str, float]) -> Right | None:
    """Return which questions of a part were answered right, by suite.

    None if the score of a suite is not the fraction of its questions that were answered right, as may be with lm-eval's
    benchmarks, or if the part has no suite.

    Args:
        rows: the lines of answers_before.jsonl or answers_after.jsonl.
        part: `target` or `source`.
        scores: the scores of the part's suites.
    """
    by_suite: dict[str, list[Any]] = {suite: [] for suite in scores if suite != "mean"}
    for row in rows:
        if row["part"] == part and row["suite"] in by_suite:
            by_suite[row["suite"]].append(row.get("score"))
    right = {suite: np.array([score == 1 for score in answers], dtype=float) for suite, answers in by_suite.items()}
    are_fractions = all(
        len(is_right_Q) and math.isclose(is_right_Q.mean(), scores[suite], abs_tol=1e-9)
        for suite, is_right_Q in right.items()
    )
    return right if right and are_fractions else None
