"""Numbers of a finished record that follow from others of it, computed again. Knows a result's layout."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from gmt.records.record import RunRecord
from gmt.records.result import Result

PARTS = ("target", "source")
_MEAN = "mean"
_TOLERANCE = 1e-9  # scores are exact, and a sum in another order differs by far less
_OWN = "gmt."


def contradiction_in(record: RunRecord, result: Result) -> str | None:
    """Return a clause on the first number in result.json that does not follow from those that it derives from.

    Args:
        record: the record of a finished run.
        result: the run's result.

    Raises:
        UserError: before.json can't be read.
    """
    before = record.read("before.json") if (record.folder / "before.json").exists() else None
    for what, written, computed in (*_means(result), *_forgetting(result)):
        if not _same(written, computed):
            return f"{what} is {written!r} in result.json, and its own scores give {computed!r}"
    for what, written, known in _of_base(result, before):
        if not _same(written, known):
            return f"{what} is {written!r} in result.json and {known!r} in before.json"
    return None


def contradiction_of_answers(
    task: Mapping[str, Any], scores: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return a clause on the first score of questions with one right answer that the answers don't give.

    The benchmarks of lm-eval sum up in ways of their own, and so may those of plug-ins: these are left out.

    Args:
        task: the science of the run's task.
        scores: of the suites, by part.
        answers: the lines of answers_before.jsonl or answers_after.jsonl.
    """
    of_suite: dict[tuple[str, str], list[float]] = {}
    for row in answers:
        if "task" not in row and _is_own(task, row["part"], row["suite"]):
            of_suite.setdefault((row["part"], row["suite"]), []).append(row["score"])
    for (part, suite), found in of_suite.items():
        written = scores.get(part, {}).get(suite)
        computed = sum(score == 1 for score in found) / len(found)
        if written is not None and not _same(written, computed):
            return f"the score of {part} {suite} is {written!r} in result.json, and its answers give {computed!r}"
    return None


def _is_own(task: Mapping[str, Any], part: str, suite: str) -> bool:
    targets = (task, task.get(part, {}).get(suite, {}))
    return all(str(each.get("_target_", _OWN)).startswith(_OWN) for each in targets if isinstance(each, Mapping))


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


def _of_base(result: Result, before: Mapping[str, Any] | None) -> Iterator[tuple[str, Any, Any]]:
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
