"""Checks the derived numbers in a finished record by computing them again. Knows the layout of a result."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from gmt.records.record import RunRecord
from gmt.records.result import Result

PARTS = ("target", "source")
_MEAN = "mean"
_TOLERANCE = 1e-9  # scores are exact, and a sum in another order differs by far less
_OWN_PREFIX = "gmt."  # of the `_target_` of this package's classes


def contradiction_in(record: RunRecord, result: Result) -> str | None:
    """Return a clause on the first number in result.json that does not follow from the stored scores; else None.

    Args:
        record: the record of a finished run.
        result: the run's result.

    Raises:
        UserError: before.json can't be read.
    """
    before = record.read("before.json") if (record.folder / "before.json").exists() else None
    for name, written, computed in (*_means(result), *_forgetting(result)):
        if not _same(written, computed):
            return f"{name} is {written!r} in result.json, but the scores there give {computed!r}"
    for name, written, stored in _base_scores(result, before):
        if not _same(written, stored):
            return f"{name} is {written!r} in result.json, but {stored!r} in before.json"
    return None


def contradiction_of_answers(
    task: Mapping[str, Any], scores: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return a clause on the first suite whose score contradicts its answers; None if none does.

    Only suites of this package with one right answer to each question are checked: benchmarks of lm-eval, and
    plug-ins, may compute their scores in other ways.

    Args:
        task: the task group in the run's science.
        scores: the scores by part and suite.
        answers: the lines of answers_before.jsonl or answers_after.jsonl.
    """
    scores_by_suite: dict[tuple[str, str], list[float]] = {}
    for row in answers:
        if "task" not in row and _is_ours(task, row["part"], row["suite"]):
            scores_by_suite.setdefault((row["part"], row["suite"]), []).append(row["score"])
    for (part, suite), answer_scores in scores_by_suite.items():
        written = scores.get(part, {}).get(suite)
        computed = sum(score == 1 for score in answer_scores) / len(answer_scores)
        if written is not None and not _same(written, computed):
            return f"the score of {part} {suite} is {written!r} in result.json, but its answers give {computed!r}"
    return None


def _is_ours(task: Mapping[str, Any], part: str, suite: str) -> bool:
    configs = (task, task.get(part, {}).get(suite, {}))
    return all(
        str(config.get("_target_", _OWN_PREFIX)).startswith(_OWN_PREFIX)
        for config in configs
        if isinstance(config, Mapping)
    )


def _means(result: Result) -> Iterator[tuple[str, Any, Any]]:
    for when, scores_by_part in (("before", result.before), ("after", result.after)):
        for part in PARTS:
            scores = scores_by_part[part]
            if values := [value for name, value in scores.items() if name != _MEAN]:
                yield f"the mean of {part} {when} training", scores[_MEAN], fmean(values)
            logged = result.metrics[when].get(f"eval/{part}_mean", scores[_MEAN])
            yield f"eval/{part}_mean {when} training", logged, scores[_MEAN]


def _forgetting(result: Result) -> Iterator[tuple[str, Any, Any]]:
    lost = result.before["source"][_MEAN] - result.after["source"][_MEAN]
    yield "forgetting", result.forgetting, lost


def _base_scores(result: Result, before: Mapping[str, Any] | None) -> Iterator[tuple[str, Any, Any]]:
    for part, scores in (before or {}).get("scores", {}).items():
        for name, value in scores.items():
            written = result.before.get(part, {}).get(name)
            yield f"the score of {part} {name} before training", written, value


def _same(written: Any, computed: Any) -> bool:
    if not all(isinstance(value, int | float) for value in (written, computed)):
        return bool(written == computed)
    if math.isnan(written) and math.isnan(computed):
        return True
    return written == computed or math.isclose(written, computed, rel_tol=0, abs_tol=_TOLERANCE)
