"""One run in several processes: the first does the run as ever, the others train along."""

import os

import torch
from transformers.utils import logging as transformers_logging

from gmt.errors import RunFailed
from gmt.records.record import RunRecord
from gmt.runs.build import Run
from gmt.runs.execute import execute, record_failure
from gmt.runs.prepare import prepare
from gmt.training.gather import gather
from gmt.training.train import train
from gmt.training.workers import agreed, index


def execute_on_worker(run: Run) -> RunRecord | None:
    """Does this worker's part of a run; each process of an initialised process group must call it.

    A worker that raises leaves the others waiting: whoever started them must then end them, as Ray Train does.

    Returns:
        The record, in the state `done`, on the first worker; None on the others.

    Raises:
        UserError: what was asked can't be done; nothing was started.
        RecordBusy: another process is at work on it.
        RunFailed: it broke here; the record holds the traceback.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(run.resources.cpus))  # or accelerate would choose, with a warning
    if index() == 0:
        record = execute(run)
        agreed(None)  # no more training
        return record
    try:
        _train_along(run)
    except Exception as error:  # the run's boundary, as in execute
        if run.record.state() == "running":  # else the first worker knows the cause, or is gone
            record_failure(run.record, error)
        raise RunFailed(f"run {run.id} failed on worker {index()}: {error}") from error
    return None


def _train_along(run: Run) -> None:
    prepared = prepare(run)
    torch.set_num_threads(run.resources.cpus)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    while (device := agreed(None)) is not None:  # there is none where the run is done already
        model = run.model.load_model()
        train(
            model,
            prepared.tokenizer,
            prepared.training.examples,
            run.train,
            run.method,
            seed=run.seed,
            device=device,
            sharding=run.resources.sharding,
            checkpoints=run.record.folder / "checkpoint",
            checkpoint_every=run.record_settings.checkpoint_every,
            log_every=run.record_settings.log_every,
            on_metrics=lambda step, metrics: None,
        )
        gather(model, run.model.load_model)
