"""Measures a diagnostic on a finished run or on a pair of runs, or reads the stored diagnosis of the same code."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from gmt.diagnostics.finished import FinishedRun
from gmt.diagnostics.protocol import ComparesRuns, Diagnostic, Row
from gmt.errors import UserError
from gmt.plug_ins import faults_of
from gmt.records.diagnoses import Diagnosis, file_of, read_diagnosis, weights_of, write_diagnosis
from gmt.records.record import RecordBusy
from gmt.runs.build import Run, plug_in
from gmt.runs.code_versions import code_of
from gmt.runs.id_form import id_form

if TYPE_CHECKING:
    from torch import Tensor

OnProgress = Callable[[int, int], None]
_ANSWERS = "answers_before.jsonl"
_WEIGHTS = "weights"


class Diagnosing:
    """A diagnostic with its settings, which measures runs and stores the diagnoses.

    Args:
        config: the config group `diagnostic`.

    Raises:
        UserError: its class or a setting is wrong.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.diagnostic: Diagnostic = plug_in("diagnostic", config, Diagnostic)
        self.settings = id_form("diagnostic", config)
        self._config = config

    def refusal(self, run: Run) -> str | None:
        """Return a clause that says why a finished run can't be measured; None if it can."""
        return _reason_without_weights(run) if self.diagnostic.needs_weights else None

    def compares(self, one: Run, other: Run) -> bool:
        """Return whether the diagnostic measures this pair of runs."""
        if not isinstance(self.diagnostic, ComparesRuns):
            return False
        with faults_of("diagnostic", self.diagnostic, "can't decide whether it compares two runs"):
            return bool(self.diagnostic.compares(finished(one), finished(other)))

    def known(self, run: Run, other: Run | None = None) -> Diagnosis | None:
        """Return the stored diagnosis if the current code computed it from the record's current weights; else None."""
        stored = read_diagnosis(self._file(run, other))
        return stored if stored is not None and stored.code == self._code(run) else None

    def measure(self, run: Run, other: Run | None = None, on_progress: OnProgress | None = None) -> Diagnosis:
        """Measure and store a diagnosis; return the stored one if another process has stored it in the meantime.

        Args:
            run: a finished run.
            other: the other run of a pair; the diagnosis is stored in the record of `run`.
            on_progress: called with the number of steps done and of all steps.

        Raises:
            UserError: a run has changed since it ended or has no weights, or the diagnostic refuses it or fails.
            RecordBusy: another process is measuring this diagnosis.
        """
        from gmt.runs.device import device_of

        file = self._file(run, other)
        file.parent.mkdir(exist_ok=True)
        with _locked(file.with_suffix(".lock"), run):
            if (known := self.known(run, other)) is not None:
                return known
            runs = [run] if other is None else [run, other]
            for measured_run in runs:
                measured_run.record.check_unchanged()
            started = time.perf_counter()
            rows = self._rows(run, other, on_progress or (lambda done, total: None))
            diagnosis = Diagnosis(
                diagnostic=self.diagnostic.name,
                settings=self.settings,
                code=self._code(run),
                weights={measured_run.id: weights_of(measured_run.record) for measured_run in runs},
                other=None if other is None else other.id,
                shown=dataclasses.asdict(self.diagnostic.shown),
                rows=[dataclasses.asdict(row) for row in rows],
                seconds=time.perf_counter() - started,
                device=device_of(run.resources),
            )
            write_diagnosis(file, diagnosis)
        return diagnosis

    def _file(self, run: Run, other: Run | None) -> Path:
        return file_of(run.record, self.diagnostic.name, self.settings, None if other is None else other.id)

    def _code(self, run: Run) -> dict[str, str]:
        return code_of({**run.config, "diagnostic": self._config})

    def _rows(self, run: Run, other: Run | None, on_progress: OnProgress) -> list[Row]:
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for each model would hide our own
        torch.set_num_threads(run.resources.cpus)
        torch.set_float32_matmul_precision("highest")
        first = finished(run, on_progress)
        with faults_of("diagnostic", self.diagnostic, f"fails on run {run.id}"):
            if other is None:
                return _checked(self.diagnostic.name, run.id, self.diagnostic.rows(first))
            assert isinstance(self.diagnostic, ComparesRuns)
            return _checked(self.diagnostic.name, run.id, self.diagnostic.rows_of_pair(first, finished(other)))


def _checked(name: str, run_id: str, rows: Any) -> list[Row]:
    """Return the rows; raise UserError if a value is not finite or given twice."""
    rows_by_key: dict[tuple[int | None, str | None, str], Row] = {}
    for row in rows:
        key = (row.layer, row.matrix, row.name)
        where = f"{row.name}" + (f" of {row.matrix}" if row.matrix else "") + f" of run {run_id}"
        if not math.isfinite(row.value):
            raise UserError(f"diagnostic {name} must give finite numbers, got {row.value} as {where}")
        if key in rows_by_key:
            raise UserError(f"diagnostic {name} must give each value once, got two of {where}")
        rows_by_key[key] = dataclasses.replace(row, value=float(row.value))
    return list(rows_by_key.values())


def finished(run: Run, on_progress: OnProgress = lambda done, total: None) -> FinishedRun:
    """Return the diagnostic's view of a run; examples and tokenizer are available before the run is done."""
    from gmt.runs.choose import as_chosen
    from gmt.runs.device import device_of
    from gmt.runs.prepare import prepare

    record = run.record
    return FinishedRun(
        id=run.id,
        model=run.model,
        task=run.task,
        method=run.method,
        train=run.train,
        seed=run.seed,
        workers=run.resources.workers,
        device=device_of(run.resources),
        science=run.science,
        result=record.result() if (record.folder / "result.json").exists() else None,
        reader=lambda: prepare(run).reader,
        examples=lambda: as_chosen(run, prepare(run)).examples,
        prompts=lambda part: _prompts(run, part),
        source=lambda: _source(run),
        tuned=lambda: _tuned(run),
        on_progress=on_progress,
    )


def _prompts(run: Run, part: str) -> list[list[int]]:
    """Return the prompts of the base's evaluation from the record, those of benchmarks included."""
    from gmt.evaluation.context import token_ids
    from gmt.runs.prepare import prepare
    from gmt.tasks.protocol import Suite

    if not (run.record.folder / _ANSWERS).exists():
        return []
    run.record.check_unchanged(also=(_ANSWERS,))
    prepared = prepare(run)
    reader = prepared.reader
    prompts = []
    for row in run.record.read_lines(_ANSWERS):
        if row["part"] == part:
            is_question = isinstance(prepared.suites[part].get(row["suite"]), Suite)
            ids = token_ids(reader, row["prompt"]) if is_question else reader.tokenizer(row["prompt"])["input_ids"]
            prompts.append(list(ids)[: reader.context])
    return [ids for ids in prompts if ids]


def _source(run: Run) -> Iterator[Mapping[str, Tensor]]:
    from gmt.runs.prepare import prepare
    from gmt.runs.train import source_prompts  # imports torch

    return source_prompts(prepare(run), "cpu")


def _tuned(run: Run) -> Mapping[str, Tensor]:
    if (reason := _reason_without_weights(run)) is not None:
        raise UserError(f"run {run.id} can't be measured, because {reason}")
    names = tuple(name for name, _ in run.model.base().named_parameters())
    return _checked_weights(run.record.folder / _WEIGHTS, names, weights_of(run.record))


@lru_cache(maxsize=2)  # the runs of a pair; checking reads every file
def _checked_weights(folder: Path, names: Sequence[str], sha256: str) -> Mapping[str, Tensor]:
    from gmt.training.saved_tensors import SavedTensors

    weights = SavedTensors(folder, names)
    weights.check(sha256)
    return weights


def _reason_without_weights(run: Run) -> str | None:
    """Return a clause on why a run's record has no weights; None if it has them."""
    if (run.record.folder / _WEIGHTS).is_dir():
        return None
    if (run.record.folder / "adapter").is_dir():
        return "only an adapter was stored, and not the weights with the adapter merged in"
    return "no weights were stored (record.keep_weights=false)"


@contextmanager
def _locked(lock: Path, run: Run) -> Iterator[None]:
    """Hold a lock, which the kernel releases if the process dies.

    Raises:
        RecordBusy: another process holds it.
    """
    file_lock = FileLock(lock, timeout=0)
    try:
        file_lock.acquire()
    except Timeout as error:
        raise RecordBusy(f"run {run.id} is being diagnosed by another process") from error
    try:
        yield
    finally:
        file_lock.release()
