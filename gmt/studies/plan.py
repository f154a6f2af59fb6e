"""The plan of a study: its runs with their ids, what became of each, and what is left to do."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from gmt.composition import Composer
from gmt.errors import UserError
from gmt.records.record import RunRecord, State
from gmt.runs.build import Builder, Run, settings_of
from gmt.runs.gpus import gpus_here
from gmt.studies.grid import Axes, Point, StudySettings, expand
from gmt.studies.tuning import TuningSettings, ask, cells, choice, compared, refuse_what_is_tuned, trial

STATES: tuple[State, ...] = ("done", "running", "interrupted", "stopped", "diverged", "failed", "changed", "to do")


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a study: where it stands in the grid, and what it is."""

    point: Point
    run: Run

    @property
    def record(self) -> RunRecord:
        """The run's record."""
        return self.run.record


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How far the tuning of one choice is.

    Args:
        label: of the choice, for people.
        setting, low, high: what is searched, and where.
        num_done, num_runs: of its budget.
        best: the value that was found; None until the budget is spent.
    """

    label: str
    setting: str
    low: float
    high: float
    num_done: int
    num_runs: int
    best: float | None

    @property
    def is_at_an_end(self) -> bool:
        """Whether the best value lies so near to an end of the interval that a better one may lie beyond."""
        return self.best is not None and not 1.1 * self.low < self.best < self.high / 1.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with its runs, every one checked.

    Args:
        study: what the runs are of.
        runs: those that are known.
        later: stand-ins, checked too, for those whose tuned setting is known only when others are done.
        tuned: how far the tuning of each choice is.
        ids: name the set of runs, whatever is tuned.
    """

    study: StudySettings
    runs: Sequence[PlannedRun]
    ids: Sequence[str]
    later: Sequence[PlannedRun] = ()
    tuned: Sequence[Tuned] = ()

    @property
    def comparison(self) -> list[PlannedRun]:
        """The runs that enter tables: those that only helped to choose a setting don't."""
        return [planned for planned in self.runs if planned.point.stage == "comparison"]

    @property
    def identity(self) -> str:
        """The same for the same set of runs of a study, so that a sweep that goes on keeps its parent run."""
        ids = ",".join(sorted(self.ids))
        return hashlib.sha256(f"{self.study.name}:{ids}".encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where the study's report lies."""
        return self.runs[0].run.record_settings.studies / self.study.name

    def states(self) -> dict[str, State]:
        """What became of each run, by run id."""
        return {planned.run.id: planned.record.state() for planned in self.runs}


def axes_of(composer: Composer, overrides: Iterable[str]) -> dict[str, list[str]]:
    """The user's overrides as axes, those of the study itself and of Hydra left out.

    Raises:
        UserError: an override can't be parsed, or is no choice among listed values.
    """
    axes: dict[str, list[str]] = {}
    for override in composer.parse(list(overrides)):
        key: str = override.get_key_element()
        if key == "study" and override.is_sweep_override():
            raise UserError(f"a sweep is of one study, got {override.input_line}; sweep them one after the other")
        if key == "study" or key.startswith(("study.", "hydra.", "hydra/")):
            continue
        if not override.is_sweep_override():
            axes[key] = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            axes[key] = _listed(override)
        else:
            raise UserError(f"{key} must list the values to sweep over, got {override.input_line}")
    return axes


def _listed(override: Override) -> list[str]:
    """The values of a sweep.

    Raises:
        UserError: there are none.
    """
    try:
        values = list(override.sweep_string_iterator())
    except (ValueError, ArithmeticError, HydraException) as error:  # range(1,2,0)
        raise UserError(f"{override.input_line} lists no values: {error}") from error
    if not values:
        raise UserError(f"{override.input_line} lists no values")
    return values


def make_plan(composer: Composer, study: StudySettings, cli: Axes) -> Plan:
    """Composes and checks every run of a study.

    Raises:
        UserError: with a sentence for every fault of every run, and for a run that stands in the study twice.
    """
    making = _Making(composer)
    points = expand(study, cli)
    if study.tuning is None:
        runs = making.runs(points)
        plan = Plan(study=study, runs=runs, ids=[planned.run.id for planned in runs])
    else:
        plan = _in_stages(study, settings_of("study.tuning", TuningSettings, study.tuning), points, making)
    faults = making.faults | dict.fromkeys(_twice(plan.runs))
    for planned in plan.runs:
        try:
            if planned.record.exists():
                planned.record.check()
        except UserError as error:
            faults |= dict.fromkeys(error.sentences)
    if faults:
        raise UserError(*faults)
    return plan


class _Making:
    """Composes and checks runs, and gathers what is wrong with them."""

    def __init__(self, composer: Composer):
        self.faults: dict[str, None] = {}
        self._composer, self._builder = composer, Builder()

    def run(self, point: Point) -> PlannedRun | None:
        try:
            run = self._builder.build(self._composer.compose_plain(point.overrides))
        except UserError as error:
            self.faults |= dict.fromkeys(f"arm {point.arm}: {sentence}" for sentence in error.sentences)
            return None
        return PlannedRun(point=point, run=run)

    def runs(self, points: Iterable[Point]) -> list[PlannedRun]:
        return [planned for planned in map(self.run, points) if planned is not None]


def _in_stages(study: StudySettings, tuning: TuningSettings, points: Sequence[Point], making: _Making) -> Plan:
    refuse_what_is_tuned(points, tuning)
    # Every run is checked with some value before any other value is asked for.
    checked = [
        (
            cell,
            making.runs([trial(cell[0], tuning, tuning.low)]),
            making.runs(compared(p, tuning, tuning.low) for p in cell),
        )
        for cell in cells(points)
    ]
    if making.faults:
        raise UserError(*making.faults)
    if checked[0][2][0].run.config.get("search") is not None:
        raise UserError("study.tuning can't go with search: a run that is stopped early has no score to be tuned by")
    runs: list[PlannedRun] = []
    later: list[PlannedRun] = []
    tuned: list[Tuned] = []
    for cell, (tried,), stand_ins in checked:
        _refuse_the_same_questions(tried, stand_ins[0])
        progress, trials = _tuned(cell[0], tuning, making)
        tuned.append(progress)
        runs += trials
        later += [tried] * (tuning.runs - len(trials))
        if progress.best is None:
            later += stand_ins
        else:
            runs += making.runs(compared(point, tuning, progress.best) for point in cell)
    ids = [planned.run.id for _, _, stand_ins in checked for planned in stand_ins]
    return Plan(study=study, runs=runs, ids=ids, later=later, tuned=tuned)


def _tuned(point: Point, tuning: TuningSettings, making: _Making) -> tuple[Tuned, list[PlannedRun]]:
    """How far the tuning of a point's choice is, and its runs so far."""

    def tried(value: float) -> PlannedRun:
        (planned,) = making.runs([trial(point, tuning, value)])
        return planned

    name = choice(point)
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


def _refuse_the_same_questions(tried: PlannedRun, compared: PlannedRun) -> None:
    if tried.run.science["task"] == compared.run.science["task"]:
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


def _twice(runs: Sequence[PlannedRun]) -> list[str]:
    count = Counter(planned.run.id for planned in runs)
    return [
        f"study {id_}: the same run stands in the study {number} times: "
        + " and ".join(f"'{p.point.label}'" for p in runs if p.run.id == id_)
        for id_, number in count.items()
        if number > 1
    ]


def runs_at_once(plan: Plan) -> int:
    """How many runs this machine's cores and GPUs take side by side."""
    resources, num_gpus = plan.runs[0].run.resources, gpus_here()
    places = (os.cpu_count() or 1) // (resources.cpus * resources.workers)
    gpus = resources.num_gpus(num_gpus) * resources.workers
    if num_gpus and gpus:
        places = min(places, int(num_gpus / gpus + 1e-9))
    return max(places, 1)


def rows(plan: Plan, states: Mapping[str, State]) -> list[dict[str, Any]]:
    """A row for each run: label, run id, state, attempts, seconds, error."""
    table = []
    for planned in plan.runs:
        status = planned.record.status()
        done = states[planned.run.id] == "done"
        table.append(
            {
                "label": planned.point.label,
                "run_id": planned.run.id,
                "state": states[planned.run.id],
                "attempts": status.get("attempts", 0),
                "seconds": planned.record.result().seconds if done else None,
                "error": status.get("error") or "",
            }
        )
    return table


def over(plan: Plan) -> tuple[State, ...]:
    """The states in which a run is left alone.

    A run that diverged would do so again. One that was changed is done anew only if its folder is deleted. What a
    search gave up stays so as long as the search is asked for.
    """
    ends: tuple[State, ...] = ("done", "diverged", "changed")
    return ends if plan.runs[0].run.config.get("search") is None else (*ends, "stopped")


def is_broken(plan: Plan, state: State) -> bool:
    """A run that diverged is over, and still no success; one that was tried with a bad value was tried well."""
    return state not in over(plan) or state == "changed" or (state == "diverged" and not plan.later)


def changes(plan: Plan, states: Mapping[str, State]) -> list[str]:
    """Return a sentence on each run that was changed since it ended."""
    changed = [planned for planned in plan.runs if states[planned.run.id] == "changed"]
    return [f"{planned.point.label}: {planned.record.change()}" for planned in changed]
