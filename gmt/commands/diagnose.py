"""`gmt diagnose study=NAME diagnostic=NAME`: measures finished runs and prints the means."""

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
    own = [text for text in overrides if _is_of_diagnostic(text)]
    plan, _ = planned([text for text in overrides if text not in own], config_folder, leave_out=True)
    todo = steps_of(plan, diagnostics(own, config_folder))
    for sentence in todo.refusals:
        say(f"warning: {sentence}")
    ended = measured(todo)
    say("")
    for rows in _means(ended):
        say(rows + "\n")
    say(f"`gmt report study={plan.study.name}` draws it, and writes every number as CSV.")


def diagnostics(overrides: Sequence[str], config_folder: str | None) -> list[Mapping[str, Any]]:
    """Return the config of each chosen diagnostic; comma-separated values are crossed.

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
    """Count the operations of one run of each choice of a study, for its report."""
    steps = steps_of(plan, diagnostics([f"{GROUP}=operations"], None), one_seed=True)
    measured(steps, is_whole=False)


def measured(todo: Steps, *, is_whole: bool = True) -> list[Diagnosed]:
    """Measure all steps, and show the progress.

    Args:
        todo: the steps.
        is_whole: whether to raise if a step fails.

    Raises:
        RunFailed: `is_whole` is set, and a step failed.
    """
    ended: list[Diagnosed] = []
    with _progress(len(todo.steps)) as (on_progress, on_end):
        for diagnosed in diagnose(todo.steps, on_progress):
            ended.append(diagnosed)
            on_end(diagnosed, len(ended), len(todo.steps))
    num_known = sum(not diagnosed.is_new for diagnosed in ended)
    if num_known:
        say(f"{num_known} of {len(ended)} were measured before, by the same code on the same weights.")
    if is_whole and (faults := [diagnosed.fault for diagnosed in ended if diagnosed.fault is not None]):
        raise RunFailed(
            f"{len(faults)} of {len(ended)} diagnoses failed, the others are stored; the first failure: {faults[0]}"
        )
    return ended


_OnProgress = Callable[[Step, int, int], None]
_OnEnd = Callable[[Diagnosed, int, int], None]


@contextmanager
def _progress(total: int) -> Iterator[tuple[_OnProgress, _OnEnd]]:
    """Show bars in a terminal, and print a line for each diagnosis."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        all_steps, one_step = bars.add_task("all", total=total), bars.add_task("", total=None)

        def on_progress(step: Step, done: int, of: int) -> None:
            bars.update(one_step, description=printable(step.label), completed=done, total=of)

        def on_end(ended: Diagnosed, number: int, of: int) -> None:
            bars.update(all_steps, completed=number)
            if ended.fault is not None:
                say(f"warning: {ended.fault}")
            elif ended.is_new and ended.found is not None:
                say(f"[{number:>{len(str(of))}}/{of}] {ended.step.label}{took(ended.found.seconds)}")

        yield on_progress, on_end


def _means(ended: Sequence[Diagnosed]) -> Iterator[str]:
    """Yield a table for each diagnostic: the means over layers, matrices and seeds of the values in its figure."""
    by_diagnosing: dict[int, list[Diagnosed]] = {}
    for diagnosed in ended:
        if diagnosed.found is not None:
            by_diagnosing.setdefault(id(diagnosed.step.diagnosing), []).append(diagnosed)
    for group in by_diagnosing.values():
        diagnostic = group[0].step.diagnosing.diagnostic
        panels = list(diagnostic.shown.panels)
        values: dict[str, dict[str, list[float]]] = {}
        for diagnosed in group:
            assert diagnosed.found is not None
            by_panel = values.setdefault(_row(diagnosed.step), {})
            for row in diagnosed.found.rows:
                if row["name"] in panels:
                    by_panel.setdefault(row["name"], []).append(row["value"])
        shown = [panel for panel in panels if any(panel in by_panel for by_panel in values.values())]
        rows = [
            [name, *(f"{fmean(by_panel[panel]):.4g}" if panel in by_panel else "" for panel in shown)]
            for name, by_panel in values.items()
            if by_panel
        ]
        yield table([diagnostic.name, *shown], rows)


def _row(step: Step) -> str:
    name = label_of_choice(step.planned.point)
    if step.other is None:
        return name
    other = label_of_choice(step.other.point)
    return f"{name}, between seeds" if other == name else " and ".join(sorted((name, other)))


def _is_of_diagnostic(text: str) -> bool:
    key = text.lstrip("+~").partition("=")[0]
    return key == GROUP or key.startswith(f"{GROUP}.")
