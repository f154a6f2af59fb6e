"""Measures every training example with the base for a selection, and stores each measure as soon as it is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gmt.errors import UserError
from gmt.evaluation.stored_values import StoredValues
from gmt.plug_ins import faults_of
from gmt.records.identity import canonical, run_id
from gmt.removal import remove
from gmt.runs.build import Run
from gmt.runs.code_versions import code_of
from gmt.runs.device import kind_of_device
from gmt.runs.environment import environment
from gmt.runs.evaluation_process import locked, progress_reporter
from gmt.runs.run_context import RunContext
from gmt.runs.sources import Sources, hub_versions
from gmt.runs.stored_scores import read_value, write_value
from gmt.selections.protocol import Measures, MeasuresExamples
from gmt.training.method_trial import without_weights

_PROGRESS_NAME = "examples"


def check_measuring(run: Run) -> None:
    """Raise UserError if a run's selection can't measure examples with the base, as a trial without weights shows."""
    if isinstance(run.selection, MeasuresExamples):
        with faults_of("selection", run.selection, "can't measure examples under the model"):
            run.selection.measurer(without_weights(run.model.base()))


def measures_of(context: RunContext, selection: MeasuresExamples) -> Sequence[Measures]:
    """Return the measures of each example; read them from the shared folder, or compute and store them there.

    If several processes need the same measures at once, one computes them and the others wait.

    Raises:
        Interrupted: `control` demanded a stop; the measures so far are stored.
        UserError: another user could have written the stored measures, or a measure is NaN or Inf.
    """
    folder = folder_of_measures(context.run, selection, context.sources, context.device)
    context.run.record_settings.refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file, scratch = folder / "measures.json", folder / "measures.jsonl"
    with locked(folder / "measures.lock", context.control):
        if file.exists() and (stored := read_value(file)) is not None:
            return [tuple(measures) for measures in stored]
        measured = _measured(context, selection, StoredValues(scratch))
        write_value(file, measured)
        with suppress(OSError):
            remove(scratch, folder)
    return measured


def folder_of_measures(run: Run, selection: MeasuresExamples, sources: Sources, device: str) -> Path:
    """Return the folder of the measures, which runs share if they would compute the same ones.

    Runs share the folder if they have the same measure, model, task and train.max_length, files of the hub, code,
    versions of libraries and kind of device; see gmt.runs.evaluate.folder_of_base.

    Args:
        run: the run whose base measures the examples.
        selection: the run's selection.
        sources: the run's files, see gmt.runs.sources.
        device: `cpu` or `cuda`.
    """
    measured: dict[str, Any] = {key: run.science[key] for key in ("model", "task", "fingerprints")}
    measured |= {"max_length": run.train.max_length, "measured_by": canonical(dict(selection.measured_by), "selection")}
    selection_class = type(selection)
    code = code_of({key: run.config[key] for key in ("model", "task", "selection")}) | hub_versions(sources)
    ran_on = {"versions": environment()["versions"], "device": kind_of_device(device, run.resources.cpus)}
    if not selection_class.__module__.startswith("gmt."):  # two packages may use one name for different measures
        measured["measured_in"] = selection_class.__module__.partition(".")[0]
    return run.record_settings.runs.parent / "selections" / run_id(measured | {"code": code} | ran_on)


def _measured(context: RunContext, selection: MeasuresExamples, stored: StoredValues) -> list[Measures]:
    examples, known = context.prepared.examples, stored.read()
    remaining = [i for i in range(len(examples)) if i not in known]
    if remaining:
        on_progress = progress_reporter(_PROGRESS_NAME, context.record, context.control)
        context.record.note_evaluation(_PROGRESS_NAME)
        try:
            measure = selection.measurer(context.model())
            for i in remaining:
                measures = [float(number) for number in measure(examples[i])]
                _check_finite(i, measures)
                stored.add({i: measures})
                known[i] = measures
                on_progress(len(known), len(examples))
        finally:
            context.record.note_evaluation(None)
    return [tuple(known[i]) for i in range(len(examples))]


def _check_finite(index: int, measures: Measures) -> None:
    bad = next((number for number in measures if not math.isfinite(number)), None)
    if bad is not None:
        raise UserError(f"selection must measure finite numbers, got {bad} for example {index} under the base")
