"""The questions of a finished run that were answered right, by its answers. Shapes: Q questions of a suite."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmt.records.record import RunRecord

Right = Mapping[str, NDArray[np.float64]]  # by suite: 1 for each question that was answered right, else 0


def right_answers_in(record: RunRecord, when: str, parts: Collection[str]) -> dict[str, Right]:
    """Return the right answers of a finished run by part, without parts whose answers are not known.

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
    """Return 1 for each question that was answered right and else 0, by suite.

    None if the scores are no mean over suites of the share of right answers, as those of lm-eval's benchmarks may be.

    Args:
        rows: the lines of answers_before.jsonl or answers_after.jsonl.
        part: `target` or `source`.
        scores: the scores of the part's suites.
    """
    by_suite: dict[str, list[Any]] = {suite: [] for suite in scores if suite != "mean"}
    for row in rows:
        if row["part"] == part and row["suite"] in by_suite:
            by_suite[row["suite"]].append(row.get("score"))
    right = {suite: np.array([score == 1 for score in own], dtype=float) for suite, own in by_suite.items()}
    is_mean = all(len(own) and math.isclose(own.mean(), scores[suite], abs_tol=1e-9) for suite, own in right.items())
    return right if right and is_mean else None
