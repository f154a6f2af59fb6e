"""The plan of a study of which one setting is tuned first: it grows as runs end."""

from collections.abc import Sequence

from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.studies.grid import Point, StudySettings
from gmt.studies.plan import Plan, PlannedRun, Tuned
from gmt.studies.run_maker import RunMaker
from gmt.studies.tuning import TuningSettings, ask, cells, choice, compared, refuse_what_is_tuned, trial


def tuned_plan(study: StudySettings, tuning: TuningSettings, points: Sequence[Point], maker: RunMaker) -> Plan:
    """Plan what is known of a study whose setting is tuned first: the tuning runs, and the comparison of what is tuned.

    Args:
        study: with tuning.
        tuning: its tuning.
        points: of the comparison.
        maker: composes and checks the runs.

    Raises:
        UserError: a run is wrong, or can't be tuned.
    """
    refuse_what_is_tuned(points, tuning)
    # Every run is checked with some value before any other value is asked for.
    checked = [
        (
            cell,
            maker.runs([trial(cell[0], tuning, tuning.low)]),
            maker.runs(compared(p, tuning, tuning.low) for p in cell),
        )
        for cell in cells(points, tuning)
    ]
    if maker.faults:
        raise UserError(*maker.faults)
    if checked[0][2][0].run.config.get("search") is not None:
        raise UserError("study.tuning can't go with search: a run that is stopped early has no score to be tuned by")
    runs: list[PlannedRun] = []
    later: list[PlannedRun] = []
    tuned: list[Tuned] = []
    for cell, (tried,), stand_ins in checked:
        _refuse_the_same_questions(tried, stand_ins)
        progress, trials = _tuned(cell[0], tuning, maker)
        tuned.append(progress)
        runs += trials
        later += [tried] * (tuning.runs - len(trials))
        if progress.best is None:
            later += stand_ins
        else:
            runs += maker.runs(compared(point, tuning, progress.best) for point in cell)
    ids = [planned.run.id for _, _, stand_ins in checked for planned in stand_ins]
    return Plan(study=study, runs=runs, ids=ids, later=later, tuned=tuned)


def _tuned(point: Point, tuning: TuningSettings, maker: RunMaker) -> tuple[Tuned, list[PlannedRun]]:
    """How far the tuning of a point's choice is, and its runs so far."""

    def tried(value: float) -> PlannedRun:
        (planned,) = maker.runs([trial(point, tuning, value)])
        return planned

    name = choice(point, fixed=tuning.overrides)
    asked = ask(tuning, name, lambda value: _score(tried(value).record))
    trials = [tried(value) for value in asked.values]
    num_done = sum(_score(planned.record) is not None for planned in trials)
    progress = Tuned(
        label=name,
        setting=tuning.setting,
        low=tuning.low,
        high=tuning.high,
        num_done=num_done,
        num_runs=tuning.runs,
        best=asked.best,
    )
    return progress, trials


def _refuse_the_same_questions(tried: PlannedRun, comparison: Sequence[PlannedRun]) -> None:
    if any(tried.run.science["task"] == planned.run.science["task"] for planned in comparison):
        raise UserError(
            "study.tuning.overrides must choose other data than the comparison's, e.g. task.data_seed, "
            f"got the same task for arm {tried.point.arm}"
        )


def _score(record: RunRecord) -> float | None:
    """The target score that a run came to; the lowest for one that diverged, None for one that is not done."""
    state = record.state()
    if state == "diverged":
        return 0.0
    return float(record.result().after["target"]["mean"]) if state == "done" else None
