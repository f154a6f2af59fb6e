"""Which questions each run answered right, from the run records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gmt.records.record import RunRecord
from gmt.verdicts.intervals import Floats
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question_noise import Right

_PARTS = {"target": "target", "forgetting": "source"}
_FILE = "answers_after.jsonl"


def right_answers(runs: Iterable[tuple[Choice, str, int, RunRecord]], measure: str) -> Right:
    """Return which questions were answered right after training.

    A run whose score is no mean over suites of the share of right answers, as that of lm-eval's benchmarks may be, or
    whose answers are not there, is left out.

    Args:
        runs: choice, task, seed and record of finished runs.
        measure: `target` or `forgetting`, which asks the source.
    """
    right: dict[tuple[Choice, str], dict[int, Mapping[str, Floats]]] = {}
    for choice, task, seed, record in runs:
        if (found := _of_run(record, _PARTS[measure])) is not None:
            right.setdefault((choice, task), {})[seed] = found
    return right


def _of_run(record: RunRecord, part: str) -> Mapping[str, Floats] | None:
    if not (record.folder / _FILE).exists():
        return None
    scores = record.result().after[part]
    by_suite: dict[str, list[Any]] = {suite: [] for suite in scores if suite != "mean"}
    for row in record.read_lines(_FILE):
        if row["part"] == part and row["suite"] in by_suite:
            by_suite[row["suite"]].append(row.get("score"))
    found = {suite: np.array([score == 1 for score in own], dtype=float) for suite, own in by_suite.items()}
    is_mean = all(len(own) and math.isclose(own.mean(), scores[suite], abs_tol=1e-9) for suite, own in found.items())
    return found if found and is_mean else None
