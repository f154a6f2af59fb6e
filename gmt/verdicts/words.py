"""A question, its test and its answer in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gmt.axis import Axis
from gmt.verdicts.pairs import Pair
from gmt.verdicts.question import EACH_OTHER, EVERY_ARM, MEASURES, Question
from gmt.verdicts.verdict import Comparison, Outcome

_MOST_NAMED = 5


def question_in_words(question: Question, pairs: Sequence[Pair], tasks: Sequence[str], axis: Axis) -> str:
    """Return the question as a sentence."""
    arms = "every arm" if question.arms == EVERY_ARM else join(question.arms)
    worse, better = ("lower", "higher") if question.more_is_better else ("higher", "lower")
    claims = {
        "equivalent": f"within {points(question.margin)} of",
        "not_worse": f"at most {points(question.margin)} {worse} than",
        "different": "different from",
        "better": f"{better} than",
    }
    values = {choice.value for pair in pairs for choice in pair} - {None}
    at = f" at {len(values)} {axis.plural}" if len(values) > 1 else ""
    where = f" on {tasks[0]}" if len(tasks) == 1 else f", on each of {len(tasks)} tasks"
    if len(tasks) > 1 and question.tasks == "pooled":
        where = f", in the mean over {len(tasks)} tasks"
    if question.against == EACH_OTHER:
        scores = "target scores" if question.more_is_better else "amounts of forgetting"
        return f"Are the {scores} of {arms}{at} {claims[question.claim]} each other{where}?"
    match = (
        "" if question.target_margin is None else f", at a target score at most {points(question.target_margin)} lower"
    )
    return (
        f"Is the {MEASURES[question.measure]} of {arms} {claims[question.claim]} that of {question.against}{at}{where}"
        f"{match}?"
    )


def answer(question: Question, outcome: Outcome, rows: Sequence[Comparison], deciding: Comparison | None) -> str:
    """Return the answer, in one sentence or two."""
    if deciding is None:
        return f"{outcome.capitalize()}: no comparison has enough finished runs."
    within = points(question.margin)
    if question.is_of_all:
        holds = [row for row in rows if row.decision in ("equivalent", "not worse", "equal")]
        is_equivalent = question.claim == "equivalent"
        limit = f"within {within}" if is_equivalent else f"at most {within} worse"
        holding = f"{len(holds)} of {len(rows)} differences are shown to be {limit}"
        extreme = "that reaches farthest" if is_equivalent else "with the worst bound"
        return f"{outcome.capitalize()}: {holding}. The interval {extreme} is that of {difference(deciding)}."
    shown = [row for row in rows if row.decision in ("better", "worse")]
    if not shown and question.target_margin is not None:
        less = sum(row.decision == "target not matched" for row in rows)
        return (
            f"{outcome.capitalize()}: of {counted(len(rows))}, none shows less forgetting together with a target score "
            f"at most {points(question.target_margin)} lower; {less} {'shows' if less == 1 else 'show'} less "
            f"forgetting alone. The smallest p of forgetting is that of {difference(deciding)}."
        )
    if not shown:
        num_inside = sum(row.decision in ("equivalent", "equal") for row in rows)
        inside = f"; in {num_inside}, the difference is shown to lie within {within}" if num_inside else ""
        return (
            f"{outcome.capitalize()}: no difference is shown in {counted(len(rows))}{inside}. The smallest p is that "
            f"of {difference(deciding)}."
        )
    groups = {decision: [row for row in shown if row.decision == decision] for decision in ("better", "worse")}
    clauses = [f"{name} in {len(group)} of {len(rows)}: {_named(group)}" for name, group in groups.items() if group]
    return f"{outcome.capitalize()}: {'; '.join(clauses)}."


def _named(rows: Sequence[Comparison]) -> str:
    rows = sorted(rows, key=lambda row: row.p)
    num_others = len(rows) - _MOST_NAMED
    others = f"; and {num_others} more" if num_others > 0 else ""
    return "; ".join(difference(row) for row in rows[:_MOST_NAMED]) + others


def difference(row: Comparison) -> str:
    """Return a comparison in words, with both intervals where the answers to each question are known.

    Example:
        gmt 0.9 less rmt 0.9 on long_words, +8.1 points [+2.0, +14.2] over seeds, [+0.5, +15.7] over seeds and questions
    """
    questions = (
        ""
        if math.isnan(row.low_questions)
        else f" over seeds, {_bounds(row.low_questions, row.high_questions)} over seeds and questions"
    )
    return (
        f"{row.choice} less {row.against} on {row.task}, {100 * row.estimate:+.1f} points {_bounds(row.low, row.high)}"
        f"{questions}"
    )


def _bounds(low: float, high: float) -> str:
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def words_of_test(question: Question, num_comparisons: int, *, is_by_flips: bool, with_target: bool) -> str:
    """Return a phrase that names the test and its corrections.

    Args:
        question: the question.
        num_comparisons: the number of its comparisons.
        is_by_flips: whether the limit is drawn by sign flips of the seeds.
        with_target: whether the target score is tested too, so that each test has half of the level.
    """
    shared = "; forgetting and target score share the level" if with_target else ""
    return _words_of_test(question, num_comparisons, is_by_flips=is_by_flips) + shared


def _words_of_test(question: Question, num_comparisons: int, *, is_by_flips: bool) -> str:
    if question.is_of_all:
        return (
            "paired one-sided t tests on the same seed; the claim must hold for every comparison, so each is tested at "
            "the whole level"
        )
    if num_comparisons == 1:
        return f"paired t test on the same seed{', by sign flips of the seeds' if is_by_flips else ''}"
    shared = "largest t over sign flips of the seeds" if is_by_flips else "Sidak's correction for the comparisons"
    return f"paired t tests on the same seed, {num_comparisons:,} at once: {shared}"


def about(num_tasks: int, *, knows_questions: bool) -> str:
    """Return the population that the intervals are about, in words."""
    of_tasks = " of the same tasks" if num_tasks > 1 else ""
    if knows_questions:
        return (
            "The decisions and the first intervals are about other seeds with the same base, training data and test "
            f"questions{of_tasks}; the wider intervals hold for other test questions of the same suites too."
        )
    return f"The intervals are about other seeds with the same base, training data and test questions{of_tasks}."


def counted(num_comparisons: int) -> str:
    """Return a number of comparisons in words."""
    return f"{num_comparisons:,} comparison{'' if num_comparisons == 1 else 's'}"


def points(fraction: float) -> str:
    """Return a fraction of a score in points, e.g. `2 points`."""
    return f"{100 * fraction:g} point{'' if fraction == 0.01 else 's'}"


def join(names: Sequence[str]) -> str:
    """Return names for a sentence, e.g. `gmt, rmt and hft`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
