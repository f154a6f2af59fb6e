"""Makes the plan of a study."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from gmt.composition import Composer
from gmt.errors import UserError
from gmt.records.identity import run_id
from gmt.runs.build import settings_of
from gmt.studies.axis_faults import faults_of_axis
from gmt.studies.expansion import expand
from gmt.studies.grid import Axes, Point, StudySettings
from gmt.studies.left_out_questions import without_unanswerable
from gmt.studies.looks import plan_with_looks
from gmt.studies.merge_faults import faults_of_parents, refuse_merges_of_runs_outside
from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.primary_faults import faults_by_question
from gmt.studies.run_maker import RunMaker
from gmt.studies.tuned_plan import tuned_plan
from gmt.studies.tuning import TuningSettings


def make_plan(composer: Composer, study: StudySettings, typed: Axes, *, leave_out: bool = False) -> Plan:
    """Compose and check every run of a study.

    Args:
        composer: composes the configs.
        study: the study.
        typed: the settings that the user typed, each with its values.
        leave_out: whether a primary question with faults is left out (`Plan.left_out`) instead of refused.

    Raises:
        UserError: a sentence for every fault of a run, the axis or a primary question, for a run that the study
            contains twice, and for runs that differ only in settings without effect.
    """
    maker = RunMaker(composer)
    points = expand(study, typed)
    if study.looks and "seed" not in typed:
        plan = plan_with_looks(study, points, partial(_plan_of, study, maker, typed))
    else:
        plan = _plan_of(study, maker, typed, points)
    plan_faults = (*_repeated(plan.runs), *_same_training(plan.runs), *faults_of_parents(plan.runs))
    faults = maker.faults | dict.fromkeys(plan_faults)
    if not maker.faults:
        compared = [(planned.point, planned.run.config) for planned in plan.compared]
        axis_faults = faults_of_axis(study, compared, typed)
        question_faults = {} if axis_faults else faults_by_question(study, compared, typed)
        if leave_out:
            answerable, left_out = without_unanswerable(study, question_faults)
            plan, question_faults = replace(plan, study=answerable, left_out=left_out), {}
        sentences = (sentence for group in question_faults.values() for sentence in group)
        faults |= dict.fromkeys([*axis_faults, *sentences])
    for planned in plan.runs:
        try:
            if planned.record.exists():
                planned.record.check()
        except UserError as error:
            faults |= dict.fromkeys(error.sentences)
    if faults:
        raise UserError(*faults)
    return plan


def _plan_of(study: StudySettings, maker: RunMaker, typed: Axes, points: Sequence[Point]) -> Plan:
    if study.tuning is not None:
        refuse_merges_of_runs_outside(points)
        return tuned_plan(study, settings_of("study.tuning", TuningSettings, study.tuning), points, maker, typed)
    runs = maker.runs(points)
    return Plan(study=study, runs=runs, ids=[planned.run.id for planned in runs])


def _repeated(runs: Sequence[PlannedRun]) -> list[str]:
    """Return a sentence for each run that occurs several times."""
    count = Counter(planned.run.id for planned in runs)
    return [
        f"run {id_}: the same run occurs in the study {number} times: "
        + " and ".join(f"'{p.point.label}'" for p in runs if p.run.id == id_)
        for id_, number in count.items()
        if number > 1
    ]


def _same_training(runs: Sequence[PlannedRun]) -> list[str]:
    """Return a sentence for each pair of runs whose training is the same, since only settings without effect differ."""
    first: dict[str, PlannedRun] = {}
    faults = []
    for planned in runs:
        run = planned.run
        if not (names := run.train.without_effect):
            continue
        train = {name: value for name, value in run.science["train"].items() if name not in names}
        other = first.setdefault(run_id({**run.science, "train": train}), planned)
        if other.run.id != run.id:
            settings = " and ".join(f"train.{name}" for name in names)
            faults.append(
                f"'{other.point.label}' and '{planned.point.label}' must differ in more than {settings}, which have no "
                f"effect where train.optimizer={run.train.optimizer}"
            )
    return faults
