"""The power of a plan's seeds and questions to answer its primary questions, in words for `gmt plan`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.primary_faults import seeds_of_choices
from gmt.studies.primary_scores import Rows, rows_of_plan, scores_of_rows, task_names
from gmt.tracking.outcomes import DIRTY
from gmt.tracking.question_steps import numbers_of_questions
from gmt.verdicts.pairs import Columns, Pair, columns_of, pairs_of
from gmt.verdicts.question import FEWEST, PARTS, Question
from gmt.verdicts.words import counted, points

if TYPE_CHECKING:
    from gmt.verdicts.intervals import Floats
    from gmt.verdicts.power import Spread

_DIFFERING = 0.25  # the assumed share of a pair's answers that differ: a quarter is usual on nano's tasks
_TWO_SIDED = 1.96


def power_of_plan(plan: Plan) -> Iterator[str]:
    """Yield sentences on each primary question.

    A sentence that begins with `warning:` says that the question is likely to stay unanswered, or that its answer is
    about these test questions alone.
    """
    compared = plan.compared
    seeds = seeds_of_choices(plan.study, [(planned.point, planned.run.config) for planned in compared])
    tasks = task_names(compared)
    rows = list(rows_of_plan(plan, tasks)) if plan.study.questions else []
    if num_dirty := sum(row["state"] == DIRTY for row in rows):
        yield (
            f"warning: {num_dirty} finished runs were made in a checkout with uncommitted changes: no answer counts "
            "them, and study.looks adds no seeds to them"
        )
    for question in plan.study.questions:
        pairs = pairs_of(question, list(seeds))
        if not pairs:
            yield f"warning: primary question {question.name} has no comparison in this plan, so it is not tested"
            continue
        columns = columns_of(question, pairs, list(dict.fromkeys(tasks.values())))
        num_seeds = min(len(seeds[a] & seeds[b]) for a, b in pairs)
        num_seeds = max(num_seeds, *plan.study.looks, 0)
        looks = ", ".join(map(str, plan.study.looks[:-1]))
        after = f", with looks at {looks} seeds that share the level" if looks else ""
        yield f"primary question {question.name}: {counted(len(columns))} over {num_seeds} seeds{after}"
        if num_seeds < FEWEST:
            yield f"warning: {question.name} is not tested, since that needs {FEWEST} seeds of each comparison"
        else:
            yield from _power_in_words(plan, question, pairs, columns, num_seeds, rows)
        yield from _noise_of_questions(question, compared, tasks)


def _power_in_words(
    plan: Plan, question: Question, pairs: list[Pair], columns: Columns, num_seeds: int, rows: Rows
) -> Iterator[str]:
    from gmt.verdicts import power  # numpy and scipy, which a plan without questions need not import

    num_groups = len(columns) // len(pairs)
    level = plan.study.level / (1 if question.target_margin is None else 2)  # a half is for the target score
    without_target = "" if question.target_margin is None else ", before the condition on the target score,"
    spread = power.recorded_spread(columns, scores_of_rows(rows, question.measure))
    if spread is None and question.deviation is not None:
        spread = power.assumed_spread(pairs, num_groups, question.deviation)
    effect = "if no choices differ" if question.is_of_all else f"if one choice differs by {points(question.margin)}"
    if spread is None:
        largest = power.largest_deviation(question, pairs, num_groups, num_seeds, level)
        yield (
            f"  {effect}, the claim '{question.claim}' is shown{without_target} with a probability of {power.POWER:g} "
            f"only if differences on the same seed have a standard deviation of at most {100 * largest:.1f} points. "
            f"Set study.primary.{question.name}.deviation, or finish runs, to get the probability"
        )
        return
    probability = power.power(question, spread, num_seeds, level)
    yield (
        f"  {effect}, the claim '{question.claim}' is shown{without_target} with a probability of {probability:.2f}, "
        f"for standard deviations of {_deviations(spread)}"
    )
    if probability < power.POWER:
        needed = power.seeds_needed(question, spread, level)
        seeds = "more than 1,000 seeds" if needed is None else f"about {needed} seeds"
        yield f"warning: {question.name} is likely to stay undecided: a probability of {power.POWER:g} needs {seeds}"


def _deviations(spread: Spread) -> str:
    pooled = _range_in_points(spread.deviation_K)
    if spread.unpooled_K is None:
        return f"{pooled} (assumed by study.primary)"
    return (
        f"{pooled} (pooled over the comparisons of a task; single comparisons: {_range_in_points(spread.unpooled_K)}; "
        f"from {spread.num_seeds} seeds)"
    )


def _range_in_points(deviation_K: Floats) -> str:
    low, high = f"{100 * deviation_K.min():.1f}", f"{100 * deviation_K.max():.1f}"
    return f"{low if low == high else f'{low} to {high}'} points"


def _noise_of_questions(question: Question, compared: Sequence[PlannedRun], tasks: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning if the choice of questions alone may move a difference by more than the margin.

    For pooled tasks, whose questions vary independently, the sentence is about the mean over tasks.
    """
    part = PARTS[question.measure]
    by_task = {tasks[planned.run.id]: numbers_of_questions(planned.run.config, part) for planned in compared}
    groups = {task: [numbers] for task, numbers in by_task.items()}
    if question.tasks == "pooled" and len(by_task) > 1:
        groups = {f"the mean over {len(by_task)} tasks": list(by_task.values())}
    too_wide = []
    for name, group in groups.items():
        half = math.hypot(*map(_half_width, group)) / len(group)
        if half > question.margin:
            too_wide.append(f"± {100 * half:.1f} points on {name} ({sum(map(sum, group)):,} questions)")
    if too_wide:
        yield (
            f"warning: {question.name}: other test questions of the same kind would move a difference by "
            f"{', '.join(too_wide)}, more than the margin of {points(question.margin)}, if a quarter of a pair's "
            "answers differ; intervals over seeds are about these test questions alone"
        )


def _half_width(numbers: Sequence[int]) -> float:
    """Return half the width of an interval of a difference over other test questions; NaN if it is unknown."""
    return _TWO_SIDED * sum(_DIFFERING / number for number in numbers) ** 0.5 / len(numbers) if numbers else math.nan
