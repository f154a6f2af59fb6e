"""Measures diagnostics on all finished runs of a study; what was measured before is left as it is."""

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
from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.tuning import choice

_BUSY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One diagnostic on one run, or on a pair."""

    diagnosing: Diagnosing
    planned: PlannedRun
    other: PlannedRun | None = None

    @property
    def label(self) -> str:
        """For people, e.g. `drift of gmt mask_ratio=0.8 seed=1`."""
        pair = "" if self.other is None else f" and {self.other.point.label}"
        return f"{self.diagnosing.diagnostic.name} of {self.planned.point.label}{pair}"

    def known(self) -> Diagnosis | None:
        """What was measured before."""
        return self.diagnosing.known(self.planned.run, None if self.other is None else self.other.run)

    def measure(self, on_progress: Callable[[int, int], None]) -> Diagnosis:
        """Measure; see gmt.runs.diagnose.Diagnosing.measure."""
        other = None if self.other is None else self.other.run
        return self.diagnosing.measure(self.planned.run, other, on_progress)


@dataclass(frozen=True, kw_only=True)
class Diagnosed:
    """The end of a step: what was found, or why nothing was.

    Args:
        step: which one.
        found: None if it failed.
        fault: a sentence; None if it did not fail.
        is_new: whether it was measured now.
    """

    step: Step
    found: Diagnosis | None = None
    fault: str | None = None
    is_new: bool = True


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is to be measured.

    Args:
        steps: run by run for each diagnostic, then its pairs.
        refusals: sentences on runs that can't be measured.
    """

    steps: Sequence[Step]
    refusals: Sequence[str] = field(default_factory=list)


def steps_of(plan: Plan, configs: Sequence[Mapping[str, Any]], *, one_seed: bool = False) -> Steps:
    """Return what diagnostics measure on a study's finished runs.

    Args:
        plan: of the study; runs that only tuned a setting are passed by.
        configs: of the diagnostics.
        one_seed: whether one run of each choice is enough.

    Raises:
        UserError: a diagnostic's setting is wrong, no run is done, or none can be measured.
    """
    diagnosings = [Diagnosing(config) for config in configs]
    done = [planned for planned in plan.comparison if planned.record.state() == "done"]
    if not done:
        raise UserError(f"study {plan.study.name} has no finished run to diagnose; run `gmt sweep` with it first")
    if one_seed:
        done = list({choice(planned.point): planned for planned in reversed(done)}.values())[::-1]
    steps: list[Step] = []
    refusals: list[str] = []
    for diagnosing in diagnosings:
        fit, sentences = _fit(diagnosing, done)
        refusals += sentences
        steps += [Step(diagnosing=diagnosing, planned=planned) for planned in fit]
        for pair in combinations(sorted(fit, key=lambda planned: planned.run.id), 2):  # whatever else the study holds
            if diagnosing.compares(pair[0].run, pair[1].run):
                steps.append(Step(diagnosing=diagnosing, planned=pair[0], other=pair[1]))
    if not steps:
        raise UserError(*refusals)
    return Steps(steps=steps, refusals=refusals)


def _fit(diagnosing: Diagnosing, done: Sequence[PlannedRun]) -> tuple[list[PlannedRun], list[str]]:
    """Return the runs that can be measured, and a sentence for each reason against others."""
    refused: dict[str, list[str]] = {}
    fit = []
    for planned in done:
        if (clause := diagnosing.refusal(planned.run)) is None:
            fit.append(planned)
        else:
            refused.setdefault(clause, []).append(planned.point.label)
    name = diagnosing.diagnostic.name
    return fit, [
        f"{name} passes over runs of which {clause}: {', '.join(labels)}" for clause, labels in refused.items()
    ]


def diagnose(steps: Sequence[Step], on_progress: Callable[[Step, int, int], None]) -> Iterator[Diagnosed]:
    """Measure step by step, and yield the end of each. Steps that another process is at are put off.

    Args:
        steps: from `steps_of`.
        on_progress: called with the step, and how much of it is done, and of how much.
    """
    left, num_busy = deque(steps), 0
    while left:
        step = left.popleft()
        if (known := step.known()) is not None:
            num_busy = 0
            yield Diagnosed(step=step, found=known, is_new=False)
            continue
        try:
            found = step.measure(lambda done, total, step=step: on_progress(step, done, total))  # type: ignore[misc]
        except RecordBusy:
            left.append(step)
            num_busy += 1
            if num_busy >= len(left):  # nothing else is left to do meanwhile
                time.sleep(_BUSY_S)
                num_busy = 0
            continue
        except UserError as error:
            yield Diagnosed(step=step, fault=f"{step.label}: {'; '.join(error.sentences)}")
            continue
        num_busy = 0
        yield Diagnosed(step=step, found=found)
