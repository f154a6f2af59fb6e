"""`gmt diagnose study=NAME diagnostic=NAME`: measures finished runs, and says what came out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gmt.composition import Composer, config_dir, hydra_on
from gmt.duration import took
from gmt.errors import RunFailed, UserError
from gmt.studies.diagnosing import Diagnosed, Step, Steps, diagnose, steps_of
from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from gmt.studies.tuning import choice
from gmt.terminal import printable, say, table

GROUP = "diagnostic"


def diagnose_study(overrides: Sequence[str], config_folder: str | None) -> None:
    """Measures, prints a line for each run that was measured, and the means.

    Args:
        overrides: the user's: those of `diagnostic` say what is measured, the others which study.
        config_folder: a config folder of the user's own, or None.

    Raises:
        UserError: the study, a diagnostic or one of its settings is wrong, or no run can be measured.
        RunFailed: a run could not be measured; what was is kept.
    """
    own = [text for text in overrides if _is_of_diagnostic(text)]
    plan, _ = planned([text for text in overrides if text not in own], config_folder)
    todo = steps_of(plan, diagnostics(own, config_folder))
    for sentence in todo.refusals:
        say(f"warning: {sentence}")
    ended = measured(todo)
    say("")
    for rows in _means(ended):
        say(rows + "\n")
    say(f"`gmt report study={plan.study.name}` draws it, and writes every number as CSV.")


def diagnostics(overrides: Sequence[str], config_folder: str | None) -> list[Mapping[str, Any]]:
    """Return the config of each diagnostic that is chosen; values that are listed with commas are crossed.

    Raises:
        UserError: none is chosen, or a setting is wrong.
    """
    with hydra_on(config_folder):
        composer = Composer()
        parsed = composer.parse(list(overrides))
        if not any(each.key_or_group == GROUP for each in parsed):
            raise UserError(f"gmt diagnose needs {GROUP}=NAME; choices: {', '.join(sorted(names_with_words()))}")
        axes = [
            [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
            if each.is_discrete_sweep()
            else [text]
            for each, text in zip(parsed, overrides, strict=True)
        ]
        return [composer.compose_plain(combination)[GROUP] for combination in product(*axes)]


def names_with_words() -> dict[str, str]:
    """Return for each diagnostic that ships inside what its yaml's first comment says."""
    files = sorted((config_dir() / GROUP).glob("*.yaml"))
    return {file.stem: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for file in files}


def count_operations(plan: Plan) -> None:
    """Counts the operations of one run of each choice of a study, for its report."""
    steps = steps_of(plan, diagnostics([f"{GROUP}=operations"], None), one_seed=True)
    measured(steps, is_whole=False)


def measured(todo: Steps, *, is_whole: bool = True) -> list[Diagnosed]:
    """Measure all, and say how far it is.

    Args:
        todo: what.
        is_whole: whether a run that can't be measured is a failure.

    Raises:
        RunFailed: see `is_whole`.
    """
    ended: list[Diagnosed] = []
    with _progress(len(todo.steps)) as (on_progress, on_end):
        for each in diagnose(todo.steps, on_progress):
            ended.append(each)
            on_end(each, len(ended), len(todo.steps))
    num_known = sum(not each.is_new for each in ended)
    if num_known:
        say(f"{num_known} of {len(ended)} were measured before, by the same code on the same weights.")
    if is_whole and (faults := [each.fault for each in ended if each.fault is not None]):
        raise RunFailed(f"{len(faults)} of {len(ended)} could not be measured; the others are: {faults[0]}")
    return ended


_OnProgress = Callable[[Step, int, int], None]
_OnEnd = Callable[[Diagnosed, int, int], None]


@contextmanager
def _progress(total: int) -> Iterator[tuple[_OnProgress, _OnEnd]]:
    """A bar in a terminal, and a line for each end everywhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        every, each = bars.add_task("all", total=total), bars.add_task("", total=None)

        def on_progress(step: Step, done: int, of: int) -> None:
            bars.update(each, description=printable(step.label), completed=done, total=of)

        def on_end(ended: Diagnosed, number: int, of: int) -> None:
            bars.update(every, completed=number)
            if ended.fault is not None:
                say(f"warning: {ended.fault}")
            elif ended.is_new and ended.found is not None:
                say(f"[{number:>{len(str(of))}}/{of}] {ended.step.label}{took(ended.found.seconds)}")

        yield on_progress, on_end


def _means(ended: Sequence[Diagnosed]) -> Iterator[str]:
    """Yield a table for each diagnostic: of the values in its figure, the means over layers, matrices and seeds."""
    by_diagnosing: dict[int, list[Diagnosed]] = {}
    for each in ended:
        if each.found is not None:
            by_diagnosing.setdefault(id(each.step.diagnosing), []).append(each)
    for group in by_diagnosing.values():
        diagnostic = group[0].step.diagnosing.diagnostic
        panels = list(diagnostic.shown.panels)
        values: dict[str, dict[str, list[float]]] = {}
        for each in group:
            assert each.found is not None
            of_row = values.setdefault(_row(each.step), {})
            for row in each.found.rows:
                if row["name"] in panels:
                    of_row.setdefault(row["name"], []).append(row["value"])
        shown = [panel for panel in panels if any(panel in of_row for of_row in values.values())]
        rows = [
            [name, *(f"{fmean(of_row[panel]):.4g}" if panel in of_row else "" for panel in shown)]
            for name, of_row in values.items()
            if of_row
        ]
        yield table([diagnostic.name, *shown], rows)


def _row(step: Step) -> str:
    name = choice(step.planned.point)
    if step.other is None:
        return name
    other = choice(step.other.point)
    return f"{name}, between seeds" if other == name else " and ".join(sorted((name, other)))


def _is_of_diagnostic(text: str) -> bool:
    key = text.lstrip("+~").partition("=")[0]
    return key == GROUP or key.startswith(f"{GROUP}.")
