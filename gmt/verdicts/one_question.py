"""The change of a score by one question, which tests assume as the deviation of differences without spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from gmt.verdicts.intervals import NO_SPREAD, Floats
from gmt.verdicts.pairs import Columns
from gmt.verdicts.scores import Scores


def steps_by_task(scores: Scores, tasks: Iterable[str]) -> dict[str, float]:
    """Return the change of the score by one question on each task; NaN if no task has two different scores.

    If no run has the number of questions, the least difference between two scores on the task takes its place, which is
    the effect of one question or more. If the scores on a task are also all the same, the largest change on the other
    tasks does.
    """
    steps = {}
    for task in tasks:
        on_task = [score for (_, name), by_seed in scores.items() if name == task for score in by_seed.values()]
        known = [score.step for score in on_task if score.step is not None]
        steps[task] = max(known) if known else least_difference([score.value for score in on_task])
    largest = float(np.fmax.reduce(list(steps.values()), initial=np.nan))
    return {task: largest if math.isnan(step) else step for task, step in steps.items()}


def steps_of(scores: Scores, columns: Columns) -> Floats:
    """Return the change of each comparison's difference by one question, or by one on each task if tasks are pooled.

    The changes on pooled tasks are independent, so they add up by their squares.
    """
    by_task = steps_by_task(scores, {task for _, tasks in columns for task in tasks})
    return np.array([math.hypot(*(by_task[task] for task in tasks)) / len(tasks) for _, tasks in columns])


def least_difference(values: Sequence[float]) -> float:
    """Return the least difference between two values that differ; NaN if there is none."""
    gaps = np.diff(np.unique(np.asarray(values, dtype=float)))
    return float(np.fmin.reduce(gaps[gaps > NO_SPREAD], initial=np.nan))
