"""The scores that decide questions. A diverged run counts with the base's score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gmt.verdicts.pairs import Choice


class Score(NamedTuple):
    """A run's score.

    Args:
        value: the score.
        diverged: whether the run diverged.
        step: the change of the score by one question; None if unknown.
    """

    value: float
    diverged: bool = False
    step: float | None = None


Scores = Mapping[tuple[Choice, str], Mapping[int, Score]]  # by choice and task: seed -> score


class ScoredRun(NamedTuple):
    """A run and its score.

    Args:
        state: `done`, `diverged` or another.
        value: the score; None for a run that is not done.
        base: the base's score on the same task; None for a run that is not done.
        step: the change of the score by one question; None if unknown.
    """

    choice: Choice
    task: str
    seed: int
    state: str
    value: float | None
    base: float | None
    step: float | None = None


def scores_of(runs: Iterable[ScoredRun]) -> Scores:
    """Return the scores of runs that are done or diverged, with an entry for each choice and task.

    A diverged run counts with the base's score, since its weights are of no use and the base remains. The base's score
    is taken from other runs on the task; if there are none, a diverged run has no score.
    """
    listed = list(runs)
    bases = {run.task: run.base for run in listed if run.base is not None}
    scores: dict[tuple[Choice, str], dict[int, Score]] = {}
    for run in listed:
        by_seed = scores.setdefault((run.choice, run.task), {})
        if run.state == "diverged" and run.task in bases:
            by_seed[run.seed] = Score(bases[run.task], diverged=True, step=run.step)
        elif run.state == "done" and run.value is not None:
            by_seed[run.seed] = Score(run.value, step=run.step)
    return scores
