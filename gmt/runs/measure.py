"""Measures every training example under the base, for a selection, and keeps each as soon as it is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gmt.errors import UserError
from gmt.evaluation.kept import Kept
from gmt.plug_ins import faults_of
from gmt.records.identity import canonical, run_id
from gmt.removal import remove
from gmt.runs.asking import alone, shown
from gmt.runs.build import Run
from gmt.runs.code_versions import code_of
from gmt.runs.device import kind_of_device
from gmt.runs.environment import environment
from gmt.runs.kept_scores import read_value, write_value
from gmt.runs.run_context import RunContext
from gmt.runs.sources import Sources, of_hub
from gmt.selections.protocol import Measures, MeasuresExamples
from gmt.training.reshaping import without_weights

_SHOWN_AS = "examples"


def check_measuring(run: Run) -> None:
    """Try on a copy of the base without weights whether a selection can measure under it, before a run starts.

    Raises:
        UserError: it can't.
    """
    if isinstance(run.selection, MeasuresExamples):
        with faults_of("selection", run.selection, "can't measure examples under the model"):
            run.selection.measurer(without_weights(run.model.base()))


def measures_of(context: RunContext, selection: MeasuresExamples) -> Sequence[Measures]:
    """Return the measures of each example: those that are kept, or new ones.

    Of processes that want the same at once, one measures and the others wait.

    Raises:
        Interrupted: the run is to end; what was measured is kept.
        UserError: another user could have written what is kept, or a measure is no finite number.
    """
    folder = folder_of_measures(context.run, selection, context.sources, context.device)
    context.run.record_settings.refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file, scratch = folder / "measures.json", folder / "measures.jsonl"
    with alone(folder / "measures.lock", context.control):
        if file.exists() and (found := read_value(file)) is not None:
            return [tuple(measures) for measures in found]
        measured = _measured(context, selection, Kept(scratch))
        write_value(file, measured)
        with suppress(OSError):
            remove(scratch, folder)
    return measured


def folder_of_measures(run: Run, selection: MeasuresExamples, sources: Sources, device: str) -> Path:
    """Where the measures are kept: every run that would get the same ones reads them.

    They are the same for the same measure, model, task and train.max_length, the same files of the hub, the same code
    and versions of libraries, and the same kind of device; see gmt.runs.evaluate.folder_of_base.

    Args:
        run: of the base.
        selection: of the run.
        sources: of the run, see gmt.runs.sources.
        device: `cpu` or `cuda`.
    """
    asked: dict[str, Any] = {key: run.science[key] for key in ("model", "task", "fingerprints")}
    asked |= {"max_length": run.train.max_length, "measured_by": canonical(dict(selection.measured_by), "selection")}
    kind = type(selection)
    code = code_of({key: run.config[key] for key in ("model", "task", "selection")}) | of_hub(sources)
    ran_on = {"versions": environment()["versions"], "device": kind_of_device(device, run.resources.cpus)}
    if not kind.__module__.startswith("gmt."):  # two authors may give two measures one name
        asked["measured_in"] = kind.__module__.partition(".")[0]
    return run.record_settings.runs.parent / "selections" / run_id(asked | {"code": code} | ran_on)


def _measured(context: RunContext, selection: MeasuresExamples, kept: Kept) -> list[Measures]:
    examples, known = context.prepared.examples, kept.read()
    left = [i for i in range(len(examples)) if i not in known]
    if left:
        on_progress = shown(_SHOWN_AS, context.record, context.control)
        context.record.note_asking(_SHOWN_AS)
        try:
            measure = selection.measurer(context.model())
            for i in left:
                found = {i: [float(number) for number in measure(examples[i])]}
                _check_finite(i, found[i])
                kept.add(found)
                known |= found
                on_progress(len(known), len(examples))
        finally:
            context.record.note_asking(None)
    return [tuple(known[i]) for i in range(len(examples))]


def _check_finite(index: int, measures: Measures) -> None:
    bad = next((number for number in measures if not math.isfinite(number)), None)
    if bad is not None:
        raise UserError(f"selection must measure finite numbers, got {bad} for example {index} under the base")
