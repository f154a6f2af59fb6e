"""Measures diagnostics on all finished runs of a study, and reads the diagnoses that exist."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from gmt.errors import UserError
from gmt.records.diagnoses import Diagnosis
from gmt.records.record import RecordBusy
from gmt.runs.diagnose import Diagnosing
from gmt.studies.grid import label_of_choice
from gmt.studies.plan import Plan, PlannedRun

_BUSY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One diagnostic on one run, or on a pair."""

    diagnosing: Diagnosing
    planned: PlannedRun
    other: PlannedRun | None = None

    @property
    def label(self) -> str:
        """The step in words, e.g. `drift of gmt mask_ratio=0.8 seed=1`."""
        pair = "" if self.other is None else f" and {self.other.point.label}"
        return f"{self.diagnosing.diagnostic.name} of {self.planned.point.label}{pair}"

    def known(self) -> Diagnosis | None:
        """Return the stored diagnosis, None if it must be measured."""
        return self.diagnosing.known(self.planned.run, None if self.other is None else self.other.run)

    def measure(self, on_progress: Callable[[int, int], None]) -> Diagnosis:
        """Measure; see gmt.runs.diagnose.Diagnosing.measure."""
        other = None if self.other is None else self.other.run
        return self.diagnosing.measure(self.planned.run, other, on_progress)


@dataclass(frozen=True, kw_only=True)
class Diagnosed:
    """The outcome of a step.

    Args:
        step: the step.
        diagnosis: the diagnosis; None if the step failed.
        fault: a sentence that says why the step failed; None if it did not.
        is_new: whether the diagnosis was measured now.
    """

    step: Step
    diagnosis: Diagnosis | None = None
    fault: str | None = None
    is_new: bool = True


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a study.

    Args:
        steps: for each diagnostic its runs, then its pairs.
        refusals: sentences that say which runs can't be measured.
    """

    steps: Sequence[Step]
    refusals: Sequence[str] = field(default_factory=list)


def steps_of(plan: Plan, configs: Sequence[Mapping[str, Any]], *, one_seed: bool = False) -> Steps:
    """Return the steps that measure diagnostics on a study's finished runs.

    Args:
        plan: the study's plan; runs that only tuned a setting are left out.
        configs: the configs of the diagnostics.
        one_seed: whether to measure one run of each choice only.

    Raises:
        UserError: a diagnostic's setting is wrong, no run is done, or no run can be measured.
    """
    diagnosings = [Diagnosing(config) for config in configs]
    done = [planned for planned in plan.comparison if planned.record.state() == "done"]
    if not done:
        raise UserError(f"study {plan.study.name} has no finished run to diagnose; run `gmt sweep` with it first")
    if one_seed:
        done = list({label_of_choice(planned.point): planned for planned in reversed(done)}.values())[::-1]
    steps: list[Step] = []
    refusals: list[str] = []
    for diagnosing in diagnosings:
        fit, sentences = _fit(diagnosing, done)
        refusals += sentences
        steps += [Step(diagnosing=diagnosing, planned=planned) for planned in fit]
        by_id = sorted(fit, key=lambda planned: planned.run.id)  # a pair has the same order in every study
        for pair in combinations(by_id, 2):
            if diagnosing.compares(pair[0].run, pair[1].run):
                steps.append(Step(diagnosing=diagnosing, planned=pair[0], other=pair[1]))
    if not steps:
        raise UserError(*refusals)
    return Steps(steps=steps, refusals=refusals)


def _fit(diagnosing: Diagnosing, done: Sequence[PlannedRun]) -> tuple[list[PlannedRun], list[str]]:
    """Return the runs that can be measured, and a sentence for each reason why other runs can't be."""
    refused: dict[str, list[str]] = {}
    fit = []
    for planned in done:
        if (clause := diagnosing.refusal(planned.run)) is None:
            fit.append(planned)
        else:
            refused.setdefault(clause, []).append(planned.point.label)
    name = diagnosing.diagnostic.name
    return fit, [f"{name} skips runs, because {clause}: {', '.join(labels)}" for clause, labels in refused.items()]


def diagnose(steps: Sequence[Step], on_progress: Callable[[Step, int, int], None]) -> Iterator[Diagnosed]:
    """Measure one step after the other and yield its outcome; a step that another process measures is postponed.

    Args:
        steps: the steps from `steps_of`.
        on_progress: called with the step, the number of its finished parts, and the number of all its parts.
    """
    remaining, num_busy = deque(steps), 0
    while remaining:
        step = remaining.popleft()
        if (known := step.known()) is not None:
            num_busy = 0
            yield Diagnosed(step=step, diagnosis=known, is_new=False)
            continue
        try:
            diagnosis = step.measure(lambda done, total, step=step: on_progress(step, done, total))  # type: ignore[misc]
        except RecordBusy:
            remaining.append(step)
            num_busy += 1
            if num_busy >= len(remaining):  # other processes measure all remaining steps
                time.sleep(_BUSY_S)
                num_busy = 0
            continue
        except UserError as error:
            yield Diagnosed(step=step, fault=f"{step.label}: {'; '.join(error.sentences)}")
            continue
        num_busy = 0
        yield Diagnosed(step=step, diagnosis=diagnosis)
