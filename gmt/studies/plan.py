"""The plan of a study: its runs with their ids and states."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmt.records.record import RunRecord, State
from gmt.runs.build import Run
from gmt.runs.gpus import gpus_here
from gmt.studies.grid import Point, StudySettings
from gmt.studies.trial_score import TrialScore
from gmt.usable import usable_cores

STATES: tuple[State, ...] = ("done", "running", "interrupted", "stopped", "diverged", "failed", "changed", "to do")


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a study, with its point in the grid."""

    point: Point
    run: Run

    @property
    def record(self) -> RunRecord:
        """The run's record."""
        return self.run.record


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The progress of tuning for one choice.

    Args:
        label: the choice's name for people.
        setting, low, high: the tuned setting, and the interval that is searched.
        num_done, num_runs: the number of finished runs, and of all runs in the budget.
        best: the best value; None until all runs of the budget are done.
        bound: the bound on forgetting; None without one.
        trials: the runs of each value that was tried so far.
        scores: the mean scores of the values whose runs have all ended.
    """

    label: str
    setting: str
    low: float
    high: float
    num_done: int
    num_runs: int
    best: float | None
    bound: float | None
    trials: Mapping[float, Sequence[PlannedRun]]
    scores: Mapping[float, TrialScore]

    @property
    def best_score(self) -> TrialScore | None:
        """The mean scores of the best value's tuning runs."""
        return None if self.best is None else self.scores.get(self.best)

    @property
    def breaks_bound(self) -> bool:
        """Whether even the best value forgets more than the bound."""
        return self.best_score is not None and not self.best_score.is_within(self.bound)

    @property
    def is_at_an_end(self) -> bool:
        """Whether the best value is so near to an end of the interval that a better one may be outside."""
        return self.best is not None and not 1.1 * self.low < self.best < self.high / 1.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with its checked runs.

    Args:
        study: the study.
        runs: the runs whose settings are known.
        later: checked stand-ins for runs whose tuned setting is known only after other runs are done.
        tuned: the progress of tuning for each choice.
        ids: run ids that identify the set of runs, whatever values tuning finds.
        left_out: a sentence on each primary question that is wrong for the study and no longer in `study`; empty in a
            plan that is to be swept, which has no such question.
    """

    study: StudySettings
    runs: Sequence[PlannedRun]
    ids: Sequence[str]
    later: Sequence[PlannedRun] = ()
    tuned: Sequence[Tuned] = ()
    left_out: Sequence[str] = ()

    @property
    def level(self) -> float:
        """The probability of a false verdict on one question at one look; questions left out count in the division."""
        num_questions = len(self.study.questions)
        return self.study.level * max(num_questions, 1) / max(num_questions + len(self.left_out), 1)

    @property
    def comparison(self) -> list[PlannedRun]:
        """The runs that enter tables, without those that only helped to choose a setting."""
        return [planned for planned in self.runs if planned.point.stage == "comparison"]

    @property
    def compared(self) -> list[PlannedRun]:
        """The runs that enter tables now or later: `comparison`, and the stand-ins of runs that wait for tuning."""
        return [*self.comparison, *(planned for planned in self.later if planned.point.stage == "comparison")]

    @property
    def identity(self) -> str:
        """A hash that is equal for the same set of runs of a study, so that a resumed sweep keeps its parent run."""
        ids = ",".join(sorted(self.ids))
        return hashlib.sha256(f"{self.study.name}:{ids}".encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """The folder of the study's report and of the frozen plans of its sweeps."""
        return self.runs[0].run.record_settings.studies / self.study.name

    def states(self) -> dict[str, State]:
        """Return the state of each run, by run id."""
        return {planned.run.id: planned.record.state() for planned in self.runs}


def runs_at_once(plan: Plan) -> int:
    """Return how many runs fit at once on the cores and GPUs that this process may use."""
    resources, num_gpus = plan.runs[0].run.resources, gpus_here()
    places = usable_cores() // (resources.cpus * resources.workers)
    gpus = resources.num_gpus(num_gpus) * resources.workers
    if num_gpus and gpus:
        places = min(places, int(num_gpus / gpus + 1e-9))
    return max(places, 1)


def rows(plan: Plan, states: Mapping[str, State]) -> list[dict[str, Any]]:
    """Return a row for each run: label, run id, state, attempts, seconds, error."""
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


def settled_states(plan: Plan) -> tuple[State, ...]:
    """Return the states of runs that a sweep does not do again.

    A run that diverged would diverge again. A record that was changed must first be deleted. A run that a search
    stopped stays stopped while the config has that search.
    """
    ends: tuple[State, ...] = ("done", "diverged", "changed")
    return ends if plan.runs[0].run.config.get("search") is None else (*ends, "stopped")


def broken(plan: Plan, states: Mapping[str, State]) -> list[PlannedRun]:
    """Return the runs that count as faults of the sweep: those that failed, are unfinished, were changed, or diverged.

    A run that diverged is not a fault while other runs wait for tuning, or if it only tried a value.
    """
    return [planned for planned in plan.runs if _is_broken(plan, planned, states[planned.run.id])]


def _is_broken(plan: Plan, planned: PlannedRun, state: State) -> bool:
    may_diverge = bool(plan.later) or planned.point.stage == "tuning"
    return state not in settled_states(plan) or state == "changed" or (state == "diverged" and not may_diverge)


def changes(plan: Plan, states: Mapping[str, State]) -> list[str]:
    """Return a sentence on each run that was changed since it ended."""
    changed = [planned for planned in plan.runs if states[planned.run.id] == "changed"]
    return [f"{planned.point.label}: {planned.record.change()}" for planned in changed]
