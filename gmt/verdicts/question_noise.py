"""Intervals that hold for other questions too, from the answers to each question.

Shapes: N seeds, Q questions of a suite, K comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from gmt.verdicts.intervals import Floats
from gmt.verdicts.pairs import Choice, Columns, Pair
from gmt.verdicts.verdict import Comparison

# By choice and task, by seed, by suite: 1 for each question that was answered right, else 0. A task's score is the mean
# over its suites of the share of right answers.
RightAnswers = Mapping[tuple[Choice, str], Mapping[int, Mapping[str, Floats]]]


def with_questions(
    rows: Sequence[Comparison], columns: Columns, right_answers: RightAnswers, *, level: float, is_of_all: bool
) -> list[Comparison]:
    """Return comparisons with the bounds that hold for other seeds and other questions of the same suites.

    Seeds and questions vary independently, so half the width of the new interval is the root of a sum of two squares
    (Zou and Donner, 2008): half the width of the comparison's interval over seeds, and half the width of an interval
    over questions for the mean over seeds, paired by question. The bounds are NaN for comparisons without the answers
    of every pair.

    Args:
        rows: the comparisons.
        columns: the pair and the tasks of each comparison.
        right_answers: the right answers to each question.
        level, is_of_all: those of the intervals over seeds.
    """
    num_tested = max(sum(not np.isnan(row.low) for row in rows), 1)
    share = level if is_of_all else -np.expm1(np.log1p(-level) / num_tested) / 2
    limit = -float(special.ndtri(share))
    wider = []
    for row, (pair, tasks) in zip(rows, columns, strict=True):
        half = np.hypot((row.high - row.low) / 2, limit * _error(right_answers, pair, tasks, row.n))
        wider.append(replace(row, low_questions=row.estimate - half, high_questions=row.estimate + half))
    return wider


def _error(right_answers: RightAnswers, pair: Pair, tasks: Sequence[str], num_pairs: int) -> float:
    """Return the standard error of the mean over seeds due to the choice of questions; NaN if answers are missing."""
    variances = [_variance(right_answers, pair, task, num_pairs) for task in tasks]
    return float(np.sqrt(sum(variances))) / len(tasks)


def _variance(right_answers: RightAnswers, pair: Pair, task: str, num_pairs: int) -> float:
    first, second = (right_answers.get((choice, task), {}) for choice in pair)
    seeds = sorted(set(first) & set(second))
    suites = list(first[seeds[0]]) if seeds else []
    if len(seeds) < num_pairs or not suites:
        return float("nan")
    total = 0.0
    for suite in suites:
        answers = [(first[seed].get(suite), second[seed].get(suite)) for seed in seeds]
        differences = [a - b for a, b in answers if a is not None and b is not None and len(a) == len(b) > 1]
        if len(differences) < len(seeds):
            return float("nan")
        mean_Q = np.mean(differences, axis=0)
        total += float(mean_Q.var(ddof=1)) / len(mean_Q)
    return total / len(suites) ** 2
