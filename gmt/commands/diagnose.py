"""`gmt diagnose study=NAME diagnostic=NAME`: measures finished runs, and prints the means of the measured values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gmt.composition import Composer, hydra_on
from gmt.config_files import names
from gmt.duration import took
from gmt.errors import RunFailed, UserError
from gmt.studies.diagnosing import Diagnosed, Step, Steps, diagnose, steps_of
from gmt.studies.grid import label_of_choice
from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from gmt.terminal import printable, say, table

GROUP = "diagnostic"


def diagnose_study(overrides: Sequence[str], config_folder: str | None) -> None:
    """Measure diagnostics on a study, and print a line for each diagnosis, then the means.

    Args:
        overrides: the user's overrides: those of `diagnostic` choose the diagnostics, the others the study.
        config_folder: a config folder of the user's own, or None.

    Raises:
        UserError: the study, a diagnostic or one of its settings is wrong, or no run can be measured.
        RunFailed: a run could not be measured; the other diagnoses are stored.
    """
    of_diagnostic = [text for text in overrides if _is_of_diagnostic(text)]
    plan, _ = planned([text for text in overrides if text not in of_diagnostic], config_folder, leave_out=True)
    todo = steps_of(plan, diagnostics(of_diagnostic, config_folder))
    for sentence in todo.refusals:
        say(f"warning: {sentence}")
    diagnoses = measure(todo)
    say("")
    for means in _tables_of_means(diagnoses):
        say(means + "\n")
    say(f"`gmt report study={plan.study.name}` draws figures of these values, and writes each value as CSV.")


def diagnostics(overrides: Sequence[str], config_folder: str | None) -> list[Mapping[str, Any]]:
    """Return the config of each chosen diagnostic: one for each combination of comma-separated values.

    Raises:
        UserError: no diagnostic is chosen, or a setting is wrong.
    """
    with hydra_on(config_folder):
        composer = Composer()
        parsed = composer.parse(list(overrides))
        if not any(override.key_or_group == GROUP for override in parsed):
            raise UserError(f"gmt diagnose needs {GROUP}=NAME; choices: {', '.join(names(GROUP))}")
        axes = [
            [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
            if override.is_discrete_sweep()
            else [text]
            for override, text in zip(parsed, overrides, strict=True)
        ]
        return [composer.compose_plain(combination)[GROUP] for combination in product(*axes)]


def count_operations(plan: Plan) -> None:
    """Count the floating-point operations of one run of each choice of a study, for the study's report."""
    steps = steps_of(plan, diagnostics([f"{GROUP}=operations"], None), one_seed=True)
    measure(steps, may_fail=True)


def measure(todo: Steps, *, may_fail: bool = False) -> list[Diagnosed]:
    """Measure all steps, and show the progress.

    Args:
        todo: the steps.
        may_fail: whether a failed step is only printed as a warning.

    Raises:
        RunFailed: a step failed, and `may_fail` is false.
    """
    diagnoses: list[Diagnosed] = []
    with _progress(len(todo.steps)) as (on_progress, on_end):
        for diagnosed in diagnose(todo.steps, on_progress):
            diagnoses.append(diagnosed)
            on_end(diagnosed, len(diagnoses), len(todo.steps))
    num_known = sum(not diagnosed.is_new for diagnosed in diagnoses)
    if num_known:
        say(f"{num_known} of {len(diagnoses)} were measured before, by the same code on the same weights.")
    faults = [diagnosed.fault for diagnosed in diagnoses if diagnosed.fault is not None]
    if faults and not may_fail:
        raise RunFailed(
            f"{len(faults)} of {len(diagnoses)} diagnoses failed, the others are stored; the first failure: {faults[0]}"
        )
    return diagnoses


_OnProgress = Callable[[Step, int, int], None]
_OnEnd = Callable[[Diagnosed, int, int], None]


@contextmanager
def _progress(total: int) -> Iterator[tuple[_OnProgress, _OnEnd]]:
    """Show progress bars if standard error is a terminal, and print a line for each diagnosis.

    Yields:
        A function that shows the progress of a step, and one that shows the end of a step.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        all_steps, one_step = bars.add_task("all", total=total), bars.add_task("", total=None)

        def on_progress(step: Step, num_done: int, num_all: int) -> None:
            bars.update(one_step, description=printable(step.label), completed=num_done, total=num_all)

        def on_end(diagnosed: Diagnosed, number: int, num_all: int) -> None:
            bars.update(all_steps, completed=number)
            if diagnosed.fault is not None:
                say(f"warning: {diagnosed.fault}")
            elif diagnosed.is_new and diagnosed.diagnosis is not None:
                width = len(str(num_all))
                say(f"[{number:>{width}}/{num_all}] {diagnosed.step.label}{took(diagnosed.diagnosis.seconds)}")

        yield on_progress, on_end


def _tables_of_means(diagnoses: Sequence[Diagnosed]) -> Iterator[str]:
    """Yield a table for each diagnostic: the values in its figure, as means over layers, matrices and seeds."""
    by_diagnosing: dict[int, list[Diagnosed]] = {}
    for diagnosed in diagnoses:
        if diagnosed.diagnosis is not None:
            by_diagnosing.setdefault(id(diagnosed.step.diagnosing), []).append(diagnosed)
    for group in by_diagnosing.values():
        diagnostic = group[0].step.diagnosing.diagnostic
        panels = list(diagnostic.shown.panels)
        values: dict[str, dict[str, list[float]]] = {}
        for diagnosed in group:
            assert diagnosed.diagnosis is not None
            by_panel = values.setdefault(_row_name(diagnosed.step), {})
            for row in diagnosed.diagnosis.rows:
                if row["name"] in panels:
                    by_panel.setdefault(row["name"], []).append(row["value"])
        shown = [panel for panel in panels if any(panel in by_panel for by_panel in values.values())]
        rows = [
            [name, *(f"{fmean(by_panel[panel]):.4g}" if panel in by_panel else "" for panel in shown)]
            for name, by_panel in values.items()
            if by_panel
        ]
        yield table([diagnostic.name, *shown], rows)


def _row_name(step: Step) -> str:
    name = label_of_choice(step.planned.point)
    if step.other is None:
        return name
    other = label_of_choice(step.other.point)
    return f"{name}, between seeds" if other == name else " and ".join(sorted((name, other)))


def _is_of_diagnostic(text: str) -> bool:
    key = text.lstrip("+~").partition("=")[0]
    return key == GROUP or key.startswith(f"{GROUP}.")
