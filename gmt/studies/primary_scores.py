"""The scores of a plan's runs, for its primary questions, from the run records."""

from collections.abc import Iterator, Sequence

from gmt.axis import Axis, seed_of
from gmt.studies.grid import arm_of
from gmt.studies.plan import Plan, PlannedRun
from gmt.verdicts.pairs import Choice
from gmt.verdicts.scores import ScoredRun, Scores, scores_of


def task_names(runs: Sequence[PlannedRun]) -> dict[str, str]:
    """Return the name of each run's task by run id; of several models it includes the model."""
    several = len({planned.run.model.name for planned in runs}) > 1
    return {p.run.id: f"{p.run.task.name}, {p.run.model.name}" if several else p.run.task.name for p in runs}


def choice_of(planned: PlannedRun, axis: Axis) -> Choice:
    """Return the choice that a run is of."""
    value = axis.value(planned.run.config)
    return Choice(arm_of(planned.point, axis), None if value is None else float(value))


def scores_of_plan(plan: Plan, measure: str) -> Scores:
    """Return the scores of the runs that are done or diverged, by choice and task."""
    return scores_of(_runs(plan, measure))


def _runs(plan: Plan, measure: str) -> Iterator[ScoredRun]:
    axis, tasks = plan.study.along, task_names(plan.comparison)
    for planned in plan.comparison:
        run, state, value, base = planned.run, planned.record.state(), None, None
        if (seed := seed_of(run.config)) is None:
            continue
        if state == "done":
            result = planned.record.result()
            value, base = result.forgetting, 0.0
            if measure == "target":
                value, base = (float(when["target"]["mean"]) for when in (result.after, result.before))
        yield ScoredRun(choice_of(planned, axis), tasks[run.id], seed, state, value, base)
