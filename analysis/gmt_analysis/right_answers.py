"""The questions that each run answered right, from the run records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from gmt.records.record import RunRecord
from gmt.records.right_answers import right_by_suite
from gmt.verdicts.intervals import Floats
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question import PARTS
from gmt.verdicts.question_noise import RightAnswers

_FILE = "answers_after.jsonl"


def right_answers(
    runs: Iterable[tuple[Choice, str, int, RunRecord]], measures: Collection[str]
) -> dict[str, RightAnswers]:
    """Return the questions that were answered right after training, by measure. Each record is read once.

    A run whose score is no mean over suites of the share of right answers, as that of lm-eval's benchmarks may be, or
    whose answers are not there, is left out.

    Args:
        runs: choice, task, seed and record of finished runs.
        measures: some of `target` and `forgetting`.
    """
    by_measure: dict[str, dict[tuple[Choice, str], dict[int, Mapping[str, Floats]]]] = {name: {} for name in measures}
    for choice, task, seed, record in runs if measures else ():
        if not (record.folder / _FILE).exists():
            continue
        scores, rows = record.result().after, record.read_lines(_FILE)
        for measure, by_choice in by_measure.items():
            part = PARTS[measure]
            if (own := right_by_suite(rows, part, scores[part])) is not None:
                by_choice.setdefault((choice, task), {})[seed] = own
    return {**by_measure}
