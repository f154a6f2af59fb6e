"""The stop rule of a study: at numbers of seeds fixed beforehand, undecided comparisons get more seeds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from gmt.axis import seed_of
from gmt.errors import UserError
from gmt.studies.grid import Point, StudySettings, choice_of
from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.primary_scores import Rows, rows_of_plan, scores_of_rows, task_names
from gmt.tracking.outcomes import UNSCORED
from gmt.verdicts.pairs import Choice

_SEED = "seed="
_ENDED_STATES = ("done", "diverged", UNSCORED)
_DECIDED_OUTCOMES = ("shown", "refuted")
_OPEN_DECISIONS = ("undecided", "not tested", "beyond the margin, uncorrected", "target not matched")


def plan_with_looks(study: StudySettings, points: Sequence[Point], plan_of: Callable[[Sequence[Point]], Plan]) -> Plan:
    """Return the plan with the seeds that the looks so far have added; added seeds do not change its identity.

    The added seeds follow from the run records alone, so that every later plan of the study has the same runs.

    Raises:
        UserError: the study has merges, or the number of seeds that it lists is not that of the first look.
    """
    if any(point.parents for point in points):
        raise UserError("study.looks must be empty in a study with arms that merge: a merge has its parents' seeds")
    first = plan = plan_of(points)
    _refuse_other_seeds(study, first, len(points))
    while added := _points_of_next_look(study, plan):
        points = [*points, *added]
        plan = plan_of(points)
    return replace(plan, ids=first.ids)


def _refuse_other_seeds(study: StudySettings, plan: Plan, num_points: int) -> None:
    runs = plan.compared
    listed = {seed_of(planned.run.config) for planned in runs}
    if len(runs) == num_points and len(listed) != study.looks[0]:  # if runs are wrong, another error says so
        raise UserError(
            f"study.looks must begin with the number of seeds that the study lists, {len(listed)}, got {study.looks[0]}"
        )


def _points_of_next_look(study: StudySettings, plan: Plan) -> list[Point]:
    """Return the points to add; none if all questions are decided or the last look is done.

    No point is added while some run has not ended, was changed, or was made with uncommitted changes, since looks and
    reports must decide by the same runs.
    """
    if plan.later or any(state not in ("done", "diverged") for state in plan.states().values()):
        return []
    rows = list(rows_of_plan(plan, task_names(plan.comparison)))
    if any(row["state"] not in _ENDED_STATES for row in rows):
        return []
    by_choice: dict[Choice, list[PlannedRun]] = {}
    for planned in plan.comparison:
        by_choice.setdefault(choice_of(planned.point, planned.run.config, study.along), []).append(planned)
    return [
        point for choice in _undecided(study, rows, list(by_choice)) for point in _more_seeds(study, by_choice[choice])
    ]


def _undecided(study: StudySettings, rows: Rows, choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices for which some comparison of a primary question is undecided."""
    from gmt.verdicts.decide import decide  # numpy and scipy

    names: set[str] = set()
    for question in study.questions:
        verdict = decide(
            question,
            scores_of_rows(rows, question.measure),
            axis=study.along,
            targets=scores_of_rows(rows, "target"),
            level=study.level,
        )
        if verdict.outcome not in _DECIDED_OUTCOMES:
            undecided = [row for row in verdict.comparisons if row.decision in _OPEN_DECISIONS]
            names |= {name for row in undecided for name in (row.choice, row.against)}
    return [choice for choice in choices if choice.name in names]


def _more_seeds(study: StudySettings, runs: Sequence[PlannedRun]) -> list[Point]:
    """Return the points that bring a choice to the number of seeds of its next look."""
    seeds = {int(planned.run.config["seed"]) for planned in runs}
    num_wanted = next((number for number in study.looks if number > len(seeds)), len(seeds))
    first_seed = min(seeds)
    tuned = None if study.tuning is None else f"{study.tuning['setting']}="
    of_first_seed = [planned.point for planned in runs if planned.run.config["seed"] == first_seed]
    return [_with_seed(point, seed, tuned) for seed in _new_seeds(seeds, num_wanted) for point in of_first_seed]


def _new_seeds(seeds: Collection[int], num_wanted: int) -> range:
    return range(max(seeds) + 1, max(seeds) + 1 + num_wanted - len(seeds))


def seeds_to_come(looks: Sequence[int], seeds: Collection[int]) -> range:
    """Return the seeds that later looks may add to those that a study has."""
    return _new_seeds(seeds, looks[-1]) if looks and seeds else range(0)


def _with_seed(point: Point, seed: int, tuned: str | None) -> Point:
    """Return a point with another seed and without the tuned value, which planning adds again.

    Args:
        point: the point.
        seed: its new seed.
        tuned: the beginning of the override that sets the tuned setting, e.g. `train.learning_rate=`; None without
            tuning.
    """

    def reseeded(overrides: Sequence[str]) -> tuple[str, ...]:
        untuned = (text for text in overrides if tuned is None or not text.startswith(tuned))
        return tuple(f"{_SEED}{seed}" if text.startswith(_SEED) else text for text in untuned)

    return replace(point, overrides=reseeded(point.overrides), varied=reseeded(point.varied))
