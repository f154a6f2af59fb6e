"""The questions that each run answered right, from the run records."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gmt.records.record import RunRecord
from gmt.records.right_answers import Right, right_answers_in
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question import PARTS
from gmt.verdicts.question_noise import RightAnswers


def right_answers(
    runs: Iterable[tuple[Choice, str, int, RunRecord]], measures: Collection[str]
) -> dict[str, RightAnswers]:
    """Return the questions that were answered right after training, by measure. Each record is read once.

    A run is left out if its answers are not recorded, or if its score is not a mean over suites of the share of right
    answers, as is possible with lm-eval's benchmarks.

    Args:
        runs: choice, task, seed and record of finished runs.
        measures: some of `target` and `forgetting`.
    """
    by_measure: dict[str, dict[tuple[Choice, str], dict[int, Right]]] = {name: {} for name in measures}
    for choice, task, seed, record in runs:
        by_part = right_answers_in(record, "after", [PARTS[measure] for measure in measures])
        for measure, by_choice in by_measure.items():
            if PARTS[measure] in by_part:
                by_choice.setdefault((choice, task), {})[seed] = by_part[PARTS[measure]]
    return {**by_measure}
