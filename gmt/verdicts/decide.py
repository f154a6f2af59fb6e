"""Decides a question from scores: comparisons, their intervals, and the verdict.

Shapes: N seeds, K comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gmt.axis import Axis
from gmt.verdicts.all_pairs import p_alike
from gmt.verdicts.decisions import decide_differences, outcome_of
from gmt.verdicts.intervals import Flags, Floats, depends_on_task, moments, simultaneous
from gmt.verdicts.notes import notes_on
from gmt.verdicts.one_question import steps_of
from gmt.verdicts.pairs import Columns, Pair, columns_of, pairs_of
from gmt.verdicts.question import LEVEL, Question
from gmt.verdicts.question_noise import RightAnswers, with_questions
from gmt.verdicts.scores import Score, Scores
from gmt.verdicts.verdict import Comparison, Decision, Verdict
from gmt.verdicts.words import about, answer, question_in_words, words_of_test

POOLED = " + "


def decide(
    question: Question,
    scores: Scores,
    *,
    axis: Axis,
    targets: Scores | None = None,
    right_answers: RightAnswers | None = None,
    level: float = LEVEL,
    notes: Sequence[str] = (),
) -> Verdict:
    """Return the verdict on a question.

    Args:
        question: a primary question.
        scores: the scores of all choices, by the question's measure.
        axis: the study's axis, which the sentences name.
        targets: the target scores of all choices, for a question with a `target_margin`.
        right_answers: the right answers to each test question, from which bounds for other test questions follow;
            None: unknown.
        level: the probability of a false verdict on this question.
        notes: sentences to show beside the answer.
    """
    tasks = list(dict.fromkeys(task for _, task in scores))
    pairs = pairs_of(question, list(dict.fromkeys(choice for choice, _ in scores)))
    columns = columns_of(question, pairs, tasks)
    share = level / 2 if question.target_margin is not None and targets is not None else level
    rows, is_by_flips = _compare(question, scores, columns, share)
    if question.target_margin is not None and targets is not None:
        rows = _with_target(question, rows, targets, columns, share)
    if right_answers is not None:
        rows = with_questions(rows, columns, right_answers, level=share, is_of_all=question.is_of_all)
    outcome, deciding = outcome_of(question, [row.decision for row in rows]), _deciding(question, rows)
    return Verdict(
        name=question.name,
        question=question_in_words(question, pairs, tasks, axis),
        outcome=outcome,
        answer=answer(question, outcome, rows, deciding),
        confidence=1 - 2 * share if question.is_of_all else 1 - share,
        test=words_of_test(question, len(rows), is_by_flips=is_by_flips, with_target=share < level),
        about=about(len(tasks), knows_questions=any(not np.isnan(row.low_questions) for row in rows)),
        n=min((row.n for row in rows), default=0),
        deciding=deciding,
        comparisons=tuple(rows),
        notes=(*notes, *notes_on(question, rows)),
    )


def _compare(question: Question, scores: Scores, columns: Columns, level: float) -> tuple[list[Comparison], bool]:
    """Return the comparisons, and whether sign flips gave the intervals that share the level."""
    if not columns:
        return [], False
    differences_NK = difference_matrix(scores, columns)
    without_diverged_NK = difference_matrix(scores, columns, diverged=False)
    step_K = steps_of(scores, columns)
    decided = decide_differences(question, differences_NK, level, step_K=step_K)
    sample = decided.sample
    p_tasks_K = np.array([_p_tasks(scores, pair, tasks, level / len(columns)) for pair, tasks in columns])
    differ_K = depends_on_task(p_tasks_K, level)
    rows = []
    for k, ((choice, against), tasks) in enumerate(columns):
        mean, half, decision = float(sample.mean_K[k]), float(decided.half_K[k]), decided.decisions[k]
        undiverged_N = without_diverged_NK[~np.isnan(without_diverged_NK[:, k]), k]
        rows.append(
            Comparison(
                task=POOLED.join(tasks),
                choice=choice.name,
                against=against.name,
                n=int(sample.n_K[k]),
                estimate=mean,
                low=mean - half,
                high=mean + half,
                p=float(decided.p_K[k]),
                decision="depends on the task" if differ_K[k] and decision != "not tested" else decision,
                p_tasks=float(p_tasks_K[k]),
                num_diverged=int(sample.n_K[k]) - len(undiverged_N),
                assumed_deviation=float(step_K[k]) if sample.is_constant_K[k] else float("nan"),
                estimate_without_diverged=float(undiverged_N.mean()) if len(undiverged_N) else float("nan"),
            )
        )
    return rows, decided.is_by_flips


def difference_matrix(scores: Scores, columns: Columns, *, diverged: bool = True) -> Floats:
    """Return the differences as a matrix with a row for each seed and a column for each comparison.

    The difference on pooled tasks is the mean over the tasks. NaN where a score is missing.

    Args:
        scores: the scores of all choices.
        columns: the comparisons.
        diverged: whether the scores of diverged runs count; if not, they are missing.
    """
    seeds = sorted({seed for by_seed in scores.values() for seed in by_seed})
    by_key = {
        key: np.array([_value(by_seed.get(seed), diverged=diverged) for seed in seeds])
        for key, by_seed in scores.items()
    }
    no_scores = np.full(len(seeds), np.nan)
    return np.stack(
        [
            np.mean([by_key.get((a, task), no_scores) - by_key.get((b, task), no_scores) for task in tasks], axis=0)
            for (a, b), tasks in columns
        ],
        axis=1,
    )


def _value(score: Score | None, *, diverged: bool) -> float:
    return float("nan") if score is None or (score.diverged and not diverged) else score.value


def _with_target(
    question: Question,
    rows: Sequence[Comparison],
    targets: Scores,
    columns: Columns,
    level: float,
) -> list[Comparison]:
    """Replace `better` by `target not matched` unless the target score is shown to be at most `target_margin` lower."""
    if not rows:
        return []
    differences_NK, step_K = difference_matrix(targets, columns), steps_of(targets, columns)
    low_K = moments(differences_NK).mean_K - simultaneous(differences_NK, level, step_K=step_K).half_K
    assert question.target_margin is not None
    is_matched_K: Flags = low_K > -question.target_margin
    return [
        row if row.decision != "better" or is_matched else _replaced(row, "target not matched")
        for row, is_matched in zip(rows, is_matched_K, strict=True)
    ]


def _replaced(row: Comparison, decision: Decision) -> Comparison:
    return Comparison(**{**vars(row), "decision": decision})


def _p_tasks(scores: Scores, pair: Pair, tasks: Sequence[str], level: float) -> float:
    """Return the p of the hypothesis that a pair's difference is the same on all tasks; NaN for one task."""
    columns = [(pair, (task,)) for task in tasks]
    step = math.sqrt(2) * float(steps_of(scores, columns).max())  # of a difference of two differences
    return p_alike(difference_matrix(scores, columns), level, step=step)


def _deciding(question: Question, rows: Sequence[Comparison]) -> Comparison | None:
    """Return the comparison on which the outcome depends most, see Verdict.deciding; None if none is tested."""
    tested = [row for row in rows if not np.isnan(row.low)]
    if not tested:
        return None
    if question.claim == "not_worse":
        return min(tested, key=lambda row: row.low if question.more_is_better else -row.high)
    if question.is_of_all:
        return max(tested, key=lambda row: max(abs(row.low), abs(row.high)))
    return min(tested, key=lambda row: row.p)
