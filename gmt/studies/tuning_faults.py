"""Faults of a study's tuning that only the composed runs show, found when the study is planned."""

from collections.abc import Collection, Iterator, Sequence

from gmt.studies.grid import StudySettings
from gmt.studies.looks import seeds_to_come
from gmt.studies.plan import PlannedRun
from gmt.studies.tuning import POINT, TuningSettings


def faults_of_tuning(
    study: StudySettings,
    tuning: TuningSettings,
    tried: Sequence[PlannedRun],
    compared: Sequence[PlannedRun],
    trained: Sequence[PlannedRun],
    typed: Collection[str],
) -> Iterator[str]:
    """Yield a sentence for each fault of the tuning of a choice.

    Args:
        study: the study.
        tuning: its tuning.
        tried: the runs that try a value for the choice.
        compared: the runs of the comparison that get the chosen value, with merges.
        trained: the trainings of the whole comparison.
        typed: the settings that the user typed values for.
    """
    config, arm = tried[0].run.config, tried[0].point.arm
    if config.get("search") is not None:
        yield "study.tuning can't go with search: a run that is stopped early has no score to be tuned by"
    yield from _faults_of_seeds(study, tuning, tried, trained, typed)
    if tuning.value_per == POINT and not _varies(study, trained, typed):
        yield f"study.tuning.value_per=point needs an axis that varies, and no arm varies {study.along.setting}"
    if tuning.forgetting_bound is not None and not config["task"].get("source", True):
        yield f"study.tuning.forgetting_bound needs a source score, and task {tried[0].run.task.name} has none"
    if any(trial.run.science["task"] == planned.run.science["task"] for trial in tried for planned in compared):
        yield (
            "study.tuning.overrides must choose other data than the comparison's, e.g. task.data_seed, "
            f"got the same task for arm {arm}"
        )


def _faults_of_seeds(
    study: StudySettings,
    tuning: TuningSettings,
    tried: Sequence[PlannedRun],
    trained: Sequence[PlannedRun],
    typed: Collection[str],
) -> Iterator[str]:
    """Yield a sentence if a tuning run has a seed that the study has, or that its looks may add."""
    seeds = {planned.run.seed for planned in trained}
    looks = study.looks if "seed" not in typed else ()
    shared = sorted({planned.run.seed for planned in tried} & {*seeds, *seeds_to_come(looks, seeds)})
    if shared:
        where = "study.tuning.seeds" if tuning.seeds else "seed in study.tuning.overrides"
        added = " or may get by study.looks" if looks else ""
        yield f"{where} must be other than the seeds that the study has{added}, got {', '.join(map(str, shared))}"


def _varies(study: StudySettings, trained: Sequence[PlannedRun], typed: Collection[str]) -> bool:
    """Return whether the axis takes several values in some arm, or would if the user had not typed its value."""
    values: dict[str, set[float | None]] = {}
    for planned in trained:
        values.setdefault(planned.point.arm, set()).add(study.along.value(planned.run.config))
    return study.along.setting in typed or any(len(axis_values) > 1 for axis_values in values.values())
