"""The plan of a study that tunes one setting before its comparison; the plan grows as tuning runs end."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gmt.errors import UserError
from gmt.studies.grid import Point, StudySettings
from gmt.studies.merge_faults import faults_of_parents
from gmt.studies.plan import Plan, PlannedRun, Tuned
from gmt.studies.run_maker import RunMaker
from gmt.studies.trial_score import TrialScore, mean_score, trial_score
from gmt.studies.tuned_points import (
    cells,
    compared,
    compared_merge,
    label_of,
    refuse_tuned_setting,
    trainings,
    trial,
    trial_points,
)
from gmt.studies.tuning import TuningSettings, best_value
from gmt.studies.tuning_faults import faults_of_tuning


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A choice that is tuned.

    Args:
        points: the points of the comparison, which get the chosen value.
        tried: the runs that would try the lowest value; each other value has equally many.
        stand_ins: the runs of the comparison at the lowest value.
    """

    points: Sequence[Point]
    tried: Sequence[PlannedRun]
    stand_ins: Sequence[PlannedRun]


def tuned_plan(
    study: StudySettings, tuning: TuningSettings, points: Sequence[Point], maker: RunMaker, typed: Collection[str]
) -> Plan:
    """Plan a study with tuning: the tuning runs so far, and the comparison of choices whose tuning is finished.

    Args:
        study: the study.
        tuning: the settings of its tuning.
        points: the points of the comparison. A merge has the values of its parents, and no tuning of its own.
        maker: composes and checks the runs.
        typed: the settings that the user typed values for.

    Raises:
        UserError: a run is wrong, or can't be tuned.
    """
    refuse_tuned_setting(points, tuning)
    merges = [point for point in points if point.parents]
    choices = _checked_choices(study, tuning, points, maker)
    stand_ins = [planned for choice in choices for planned in choice.stand_ins]
    merged = _merge_runs(merges, tuning, {point: tuning.low for choice in choices for point in choice.points}, maker)
    maker.faults |= dict.fromkeys(faults_of_parents([*stand_ins, *merged]) if merges else ())
    if maker.faults:
        raise UserError(*maker.faults)
    faults = [
        fault
        for choice in choices
        for fault in faults_of_tuning(study, tuning, choice.tried, [*choice.stand_ins, *merged], stand_ins, typed)
    ]
    if faults:
        raise UserError(*dict.fromkeys(faults))
    return _plan_so_far(study, tuning, choices, merges, merged, maker)


def _checked_choices(
    study: StudySettings, tuning: TuningSettings, points: Sequence[Point], maker: RunMaker
) -> list[_Choice]:
    """Return the choices, after a check of each of their runs at the lowest value."""
    trained = [point for point in points if not point.parents]
    return [
        _Choice(
            points=cell,
            tried=maker.runs(_trials(cell, tuning, tuning.low)),
            stand_ins=maker.runs(compared(point, tuning, tuning.low) for point in cell),
        )
        for cell in cells(trained, tuning, axis=study.along.setting)
    ]


def _plan_so_far(
    study: StudySettings,
    tuning: TuningSettings,
    choices: Sequence[_Choice],
    merges: Sequence[Point],
    merge_stand_ins: Sequence[PlannedRun],
    maker: RunMaker,
) -> Plan:
    """Return the plan with the values that tuning has chosen so far; runs that wait for a value are in `later`."""
    runs: list[PlannedRun] = []
    later: list[PlannedRun] = []
    tuned: list[Tuned] = []
    values: dict[Point, float] = {}
    for choice in choices:
        progress = _tuned(study, tuning, choice, maker)
        tuned.append(progress)
        runs += [planned for trials in progress.trials.values() for planned in trials]
        later += [*choice.tried] * (tuning.runs - len(progress.trials))
        if progress.best is None:
            later += choice.stand_ins
        else:
            runs += maker.runs(compared(point, tuning, progress.best) for point in choice.points)
            values |= dict.fromkeys(choice.points, progress.best)
    tuned_merges = dict.fromkeys(merge for merge in merges if values.keys() >= set(trainings(merge)))
    runs += _merge_runs(tuned_merges, tuning, values, maker)
    later += [planned for merge, planned in zip(merges, merge_stand_ins, strict=True) if merge not in tuned_merges]
    ids = [planned.run.id for choice in choices for planned in choice.stand_ins]
    return Plan(study=study, runs=runs, ids=[*ids, *(m.run.id for m in merge_stand_ins)], later=later, tuned=tuned)


def _merge_runs(
    merges: Iterable[Point], tuning: TuningSettings, values: Mapping[Point, float], maker: RunMaker
) -> list[PlannedRun]:
    return maker.runs(compared_merge(point, tuning, values) for point in merges)


def _trials(cell: Sequence[Point], tuning: TuningSettings, value: float) -> list[Point]:
    """Return the runs that try a value for a choice."""
    points = trial_points(cell, tuning)
    return [trial(point, tuning, value, seed) for point in points for seed in tuning.seeds or (None,)]


def _tuned(study: StudySettings, tuning: TuningSettings, choice: _Choice, maker: RunMaker) -> Tuned:
    """Return the progress of tuning for a choice, with its runs so far."""
    trials: dict[float, Sequence[PlannedRun]] = {}
    known: dict[float, list[TrialScore]] = {}
    scores: dict[float, TrialScore] = {}

    def rank(value: float) -> float | None:
        if value not in trials:
            trials[value] = maker.runs(_trials(choice.points, tuning, value))
            known[value] = [score for p in trials[value] if (score := trial_score(p.record)) is not None]
            if trials[value] and len(known[value]) == len(trials[value]):  # a refused value has no runs
                scores[value] = mean_score(known[value])
        return scores[value].rank(tuning.forgetting_bound) if value in scores else None

    label = label_of(choice.points, tuning, axis=study.along.setting)
    best = best_value(tuning, label, rank)  # fills trials, known and scores
    return Tuned(
        label=label,
        setting=tuning.setting,
        low=tuning.low,
        high=tuning.high,
        num_done=sum(map(len, known.values())),
        num_runs=tuning.runs * len(choice.tried),
        best=best,
        bound=tuning.forgetting_bound,
        trials=trials,
        scores=scores,
    )
