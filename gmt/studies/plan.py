"""The plan of a study: its runs with their ids, what became of each, and what is left to do."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmt.composition import Composer
from gmt.errors import UserError
from gmt.records.record import RunRecord, State
from gmt.runs.build import Builder, Run
from gmt.studies.grid import Axes, Point, StudySettings, expand

STATES: tuple[State, ...] = ("done", "running", "interrupted", "stopped", "failed", "to do")


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
class Plan:
    """A study with all its runs, every one checked."""

    study: StudySettings
    runs: Sequence[PlannedRun]

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
        if key == "study" or key.startswith(("study.", "hydra.", "hydra/")):
            continue
        if not override.is_sweep_override():
            axes[key] = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            axes[key] = list(override.sweep_string_iterator())
        else:
            raise UserError(f"{key} must list the values to sweep over, got {override.input_line}")
    return axes


def make_plan(composer: Composer, study: StudySettings, cli: Axes) -> Plan:
    """Composes and checks every run of a study.

    Raises:
        UserError: with a sentence for every fault of every run, and for a run that stands in the study twice.
    """
    faults: dict[str, None] = {}
    runs: list[PlannedRun] = []
    builder = Builder()
    for point in expand(study, cli):
        try:
            runs.append(PlannedRun(point=point, run=builder.build(composer.compose_plain(point.overrides))))
        except UserError as error:
            faults |= dict.fromkeys(f"arm {point.arm}: {sentence}" for sentence in error.sentences)
    faults |= dict.fromkeys(_twice(runs))
    for planned in runs:
        try:
            if planned.record.exists():
                planned.record.check()
        except UserError as error:
            faults |= dict.fromkeys(error.sentences)
    if faults:
        raise UserError(*faults)
    return Plan(study=study, runs=runs)


def _twice(runs: Sequence[PlannedRun]) -> list[str]:
    count = Counter(planned.run.id for planned in runs)
    return [
        f"study {id_}: the same run stands in the study {number} times: "
        + " and ".join(f"'{p.point.label}'" for p in runs if p.run.id == id_)
        for id_, number in count.items()
        if number > 1
    ]


def runs_at_once(plan: Plan) -> int:
    """How many runs this machine's cores take side by side."""
    return max((os.cpu_count() or 1) // plan.runs[0].run.resources.cpus, 1)


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
                "seconds": planned.record.read("result.json")["seconds"] if done else None,
                "error": status.get("error") or "",
            }
        )
    return table
