"""Executes one run in several processes: the first executes all stages, the others only take part in its trainings."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from gmt.errors import Interrupted, RunFailed, StoppedEarly
from gmt.runs.attempt import existence_check
from gmt.runs.build import Run
from gmt.runs.execute import execute
from gmt.runs.failures import kind_of
from gmt.runs.hermetic import remove_variables
from gmt.runs.prepare import Prepared, only_chosen, prepare
from gmt.runs.recorded_failure import failure_in_words, record_failure
from gmt.runs.stall import end_on_stall
from gmt.runs.train import reshaped, train_run
from gmt.training.control import Control
from gmt.training.gather import gather
from gmt.training.settings import TrainSettings
from gmt.training.workers import broadcast, index


def execute_on_worker(run: Run, stop: Path) -> None:
    """Execute this worker's part of a run; each process of an initialised process group must call this.

    If a worker raises, the other workers wait for ever: the launcher must end them, as Ray Train does.

    Args:
        run: the run, the same in each worker.
        stop: a file; once it exists, the run ends after its next step.

    Raises:
        UserError: a setting is wrong; nothing was started.
        RecordBusy: another process is working on the run.
        Interrupted: the stop file existed; the run can be resumed from its record.
        RunFailed: the run failed on this worker; the record holds the traceback.
    """
    remove_variables(in_group=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(run.resources.cpus))  # else accelerate chooses it, and warns
    if index() == 0:
        run.record.folder.mkdir(parents=True, exist_ok=True)
        with end_on_stall(run.resources.stall_limit_s, run.record.folder) as on_progress:
            execute(run, Control(should_stop=existence_check(stop), on_progress=on_progress))
        broadcast(None)  # tells the other workers that no training follows
        return
    try:
        _join_trainings(run)
    except (Interrupted, StoppedEarly):
        raise
    except (Exception, SystemExit) as error:  # the run's boundary, as in execute
        kind = kind_of(error)
        if run.record.state() == "running":  # else the first worker has recorded its own failure, or has died
            record_failure(run.record, error, kind)
        raise RunFailed(failure_in_words(f"run {run.id} failed on worker {index()}", error, run.id), kind) from error


def _join_trainings(run: Run) -> None:
    """Take part in each training that the first worker starts, until it starts no more."""
    prepared = prepare(run)
    torch.set_num_threads(run.resources.cpus)
    torch.set_float32_matmul_precision("highest")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    while (training := _next_training()) is not None:  # None at once if the run is done already
        device, settings, chosen = training
        _train_once(run, prepared if chosen is None else only_chosen(prepared, chosen, run.train), device, settings)


_Training = tuple[str, TrainSettings, Sequence[int] | None]
"""The device, the settings, and the indices of the chosen examples; None for all examples."""


def _next_training() -> _Training | None:
    nothing: _Training | None = None
    return broadcast(nothing)


def _train_once(run: Run, prepared: Prepared, device: str, settings: TrainSettings) -> None:
    model = run.model.load_model()
    reshaping = reshaped(run, prepared, model, device)

    def gather_only(step: int) -> float:
        gather(model, run.model.load_model)
        return 0.0

    train_run(
        run,
        prepared,
        model,
        reshaping,
        settings,
        device,
        control=Control(),
        evaluate=gather_only,
        on_metrics=lambda step, metrics: None,
    )
    gather(model, run.model.load_model)
