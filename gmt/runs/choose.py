"""The stage of a run that chooses its training examples, after the base's evaluation and before the training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from gmt.errors import UserError
from gmt.plug_ins import faults_of
from gmt.records.record import RunRecord
from gmt.runs.build import Run
from gmt.runs.measure import measures_of
from gmt.runs.prepare import Prepared, check_number, only_chosen
from gmt.runs.run_context import RunContext
from gmt.selections.protocol import Choice, MeasuresExamples, Selection

FILE = "selection.jsonl"
"""The record's file with a row for each example that fits into train.max_length, in the order of the task."""


def choose(context: RunContext) -> RunContext:
    """Return the run's context with the chosen examples; the choice of an earlier attempt is read from the record."""
    selection = context.run.selection
    if selection is None:
        return context
    if not (context.record.folder / FILE).exists():
        context.record.write_lines(FILE, _rows(context, selection))
    return dataclasses.replace(context, prepared=as_chosen(context.run, context.prepared))


def as_chosen(run: Run, prepared: Prepared) -> Prepared:
    """Return the prepared run with the examples that its record says were chosen.

    Args:
        run: a run with or without a selection.
        prepared: the run's task, with all examples.

    Raises:
        UserError: the recorded choice has another number of examples, can't be read, or is too small for a step.
    """
    if run.selection is None:
        return prepared
    indices = indices_in(run.record, len(prepared.examples))
    check_number(len(indices), len(prepared.examples), run.train)
    return only_chosen(prepared, indices, run.train)


def indices_in(record: RunRecord, num_examples: int) -> list[int]:
    """Return the indices of the chosen examples in a record, in the order of the task.

    Raises:
        UserError: the recorded choice has another number of examples, or can't be read.
    """
    rows = record.read_lines(FILE)
    if [row["index"] for row in rows] != list(range(num_examples)):
        raise UserError(
            f"{record.folder / FILE} must have a row for each of the {num_examples:,} examples, in their order, got "
            f"{len(rows):,} rows: delete the run's folder to run it anew"
        )
    return [row["index"] for row in rows if row["chosen"] is True]


def _rows(context: RunContext, selection: Selection) -> list[dict[str, object]]:
    examples = context.prepared.examples
    measures = measures_of(context, selection) if isinstance(selection, MeasuresExamples) else ()
    with faults_of("selection", selection, "can't choose"):
        choice = selection.choose(examples, measures, seed=context.run.seed)
        chosen = _chosen(choice, len(examples))
    scores: Sequence[float | None] = [None] * len(examples) if choice.scores is None else choice.scores
    return [{"index": i, "chosen": i in chosen, "score": score} for i, score in enumerate(scores)]


def _chosen(choice: Choice, num_examples: int) -> set[int]:
    """Return the indices as a set; raise UserError if indices or scores are invalid."""
    chosen = set(choice.indices)
    if len(chosen) != len(choice.indices) or not chosen <= set(range(num_examples)):
        raise UserError(f"selection must choose each example at most once, by an index below {num_examples}")
    if choice.scores is not None and (len(choice.scores) != num_examples or not all(map(math.isfinite, choice.scores))):
        raise UserError(f"selection must give a finite score for each of the {num_examples} examples, or none at all")
    return chosen
