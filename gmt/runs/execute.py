"""Does one run, from its config to its finished record. A run that is done is not done again."""

import dataclasses
import logging
import math
import os
import platform
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from gmt.credentials import without_secrets
from gmt.errors import Interrupted, RunFailed, StoppedEarly, UserError
from gmt.methods.protocol import ReshapesModel
from gmt.records.record import RunRecord, State
from gmt.runs.build import Run
from gmt.runs.code_versions import by_both, code_of, code_of_environment, outside_of
from gmt.runs.device import check_device, device_of
from gmt.runs.environment import environment
from gmt.runs.evaluate import evaluate, folder_of_base
from gmt.runs.failures import RETRIES, kind_of
from gmt.runs.gpus import gpus_here
from gmt.runs.hermetic import take_out
from gmt.runs.prepare import Prepared, prepare
from gmt.runs.sources import Sources, of_hub, sources_of
from gmt.runs.train import train_run
from gmt.training.alike import check_steps
from gmt.training.checkpoints import last_whole_checkpoint
from gmt.training.control import Control
from gmt.training.gather import gather
from gmt.training.memory import give_back
from gmt.training.reshaping import Reshaping, Sizes, check_reshaping
from gmt.training.settings import TrainSettings
from gmt.training.train import TrainFacts, check_comparable, moved_fraction
from gmt.training.weights import weights_sha256
from gmt.training.workers import agreed, num_workers

_NOBODY = Control()


def execute(run: Run, control: Control = _NOBODY) -> RunRecord:
    """Does a run, or goes on with it where it stopped.

    Returns:
        The record, in the state `done`.

    Raises:
        UserError: what was asked can't be done; if that showed only when the base was asked, the record says `failed`.
            Or the run is done, and its record was changed since.
        RecordBusy: another process is at work on it.
        Interrupted, StoppedEarly: `control` asked for it; what is there so far is kept.
        RunFailed: it broke; the record holds the traceback.
    """
    take_out(in_group=num_workers() > 1)  # also what libraries have set in an earlier run of this process
    run = run.where(gpus_here())
    check_device(run.resources)
    if num_workers() != (workers := run.resources.workers):
        raise UserError(f"resources.workers must be {num_workers()} here, got {workers}: a launcher starts the workers")
    record = run.record
    run.record_settings.close_to_others()
    if record.exists():
        record.check()
    prepared = prepare(run)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for each checkpoint would bury our own lines
    if record.state() != "done":
        check_reshaping(run.method, run.model.base, seed=run.seed)
    record.create(run.science, run.config)
    with record.at_work():
        record.check_unchanged()
        if record.state() != "done":
            _work(run, record, prepared, control)
    return record


def _work(run: Run, record: RunRecord, prepared: Prepared, control: Control) -> None:
    started, before = time.perf_counter(), record.status()
    seconds_before = _seconds(before)
    record.set_status(
        "running",
        attempts=before.get("attempts", 0) + 1,
        seconds_before=seconds_before,
        started_at=time.time(),
        ended_at=None,
        host=platform.node(),
        pid=os.getpid(),
        error=None,
    )
    record.note_asking(None)  # of an attempt that was killed while it asked
    with _log_file(record):
        try:
            result = _train_and_evaluate(run, record, prepared, control)
        except (KeyboardInterrupt, Interrupted):
            record.set_status("interrupted", ended_at=time.time())
            raise
        except StoppedEarly as stopped:
            record.set_status("stopped", ended_at=time.time(), error=str(stopped))
            raise
        except Exception as error:  # the run's boundary: one run's failure is that run's outcome
            kind = kind_of(error)
            record_failure(record, error, kind)
            if kind == "user":
                raise
            raise RunFailed(failure_in_words(f"run {record.id} failed", error, record.id), kind) from error
    seconds = None if seconds_before is None else seconds_before + time.perf_counter() - started
    record.write("result.json", result | {"seconds": seconds})
    record.drop_checkpoints()
    record.drop_evaluation()
    record.finish(ended_at=time.time())


def _seconds(status: Mapping[str, Any]) -> float | None:
    """What all attempts so far took; None after a kill, since nobody knows when that attempt died."""
    if "started_at" not in status:
        return 0.0
    before, ended_at = status.get("seconds_before"), status.get("ended_at")
    if status["state"] == "running" or before is None or ended_at is None:
        return None
    return float(before + ended_at - status["started_at"])


def failure_in_words(what: str, error: Exception, run_id: str) -> str:
    """Return a sentence that names a failure's type, says what it says, and where its traceback is shown."""
    return f"{what}: {type(error).__name__}: {error}; `gmt show {run_id}` shows where"


def record_failure(record: RunRecord, error: Exception, kind: str) -> None:
    """A failure that may pass leaves the run to be gone on with; a full disk leaves no trace but the raised error."""
    state: State = "interrupted" if kind in RETRIES else "diverged" if kind == "diverged" else "failed"
    try:
        (record.folder / "error.txt").write_text(
            without_secrets(traceback.format_exc()), encoding="utf-8", errors="backslashreplace"
        )
        record.note_failure(state, kind, f"{type(error).__name__}: {error}")
    except OSError as full:
        logging.getLogger(__name__).error("the failure of run %s can't be recorded: %s", record.id, full)


def _environment(run: Run, record: RunRecord, sources: Sources) -> dict[str, Any]:
    """Return this attempt's environment, with the code and the uncommitted changes of earlier attempts."""
    now, code = environment() | {"outside": outside_of(run.config)}, code_of(run.config) | of_hub(sources)
    before = record.read("environment.json") if (record.folder / "environment.json").exists() else {}
    dirty = True if before.get("dirty") else now["dirty"]
    return now | {"dirty": dirty, "code": by_both(code_of_environment(before), code), "sources": sources}


def _train_and_evaluate(run: Run, record: RunRecord, prepared: Prepared, control: Control) -> dict[str, Any]:
    device = device_of(run.resources)
    torch.set_num_threads(run.resources.cpus)
    torch.set_float32_matmul_precision("highest")  # an earlier run's method, or TORCH_ALLOW_TF32_..., may have set it
    sources = sources_of(run, prepared)
    record.write("environment.json", _environment(run, record, sources) | {"device": device})
    before = _before(run, record, prepared, control, device, sources)
    model, sizes, facts, settings = _train(run, record, prepared, control, device)
    moved = moved_fraction(model, run.model.base())  # before the evaluation, which takes long
    weights = weights_sha256(model.named_parameters())
    after = evaluate(run, prepared, model, record.folder / "evaluation" / weights[:16], control)
    after.keep(record, "after")
    record.append_metrics(facts.num_steps, after.metrics)
    if run.record_settings.keep_weights and not isinstance(run.method, ReshapesModel):
        model.save_pretrained(record.folder / "weights")
        prepared.reader.tokenizer.save_pretrained(record.folder / "weights")
    return {
        "before": before["scores"],
        "after": after.scores,
        "metrics": {"before": before["metrics"], "after": after.metrics},
        "forgetting": before["scores"]["source"]["mean"] - after.scores["source"]["mean"],
        "training": dataclasses.asdict(facts),
        "micro_batch_size": settings.micro_batch_size,
        "accumulation_steps": settings.accumulation_steps,
        "density_asked": run.method.density_asked,
        "moved_fraction": moved,
        "num_parameters": model.num_parameters(),
        **dataclasses.asdict(sizes),
        "num_train_examples": prepared.num_examples,
        "num_dropped_examples": prepared.num_dropped,
        "num_left_over_examples": prepared.num_left_over,
        "weights_sha256": weights,
        "train_seconds": facts.seconds,
    }


def _train(
    run: Run, record: RunRecord, prepared: Prepared, control: Control, device: str
) -> tuple[PreTrainedModel, Sizes, TrainFacts, TrainSettings]:
    """Trains with the largest micro-batch that the GPU's memory holds, of the same examples in each step."""
    settings = run.train
    while settings.micro_batch_size > record.status().get("micro_batch_size", math.inf):
        settings = settings.with_smaller_micro_batches()
    while True:
        try:
            return *_train_once(run, record, prepared, control, device, settings), settings
        except torch.OutOfMemoryError:
            if settings.micro_batch_size == 1 or num_workers() > 1:  # the others may have room, and wait
                raise
            settings = settings.with_smaller_micro_batches()
            record.set_status("running", micro_batch_size=settings.micro_batch_size)
        give_back()  # the failed attempt's tensors hung on its traceback


def _train_once(
    run: Run, record: RunRecord, prepared: Prepared, control: Control, device: str, settings: TrainSettings
) -> tuple[PreTrainedModel, Sizes, TrainFacts]:
    model = run.model.load_model()
    check_comparable(model, run.model.base())
    reshaping = Reshaping(run.method, model, seed=run.seed)
    model.to(device)  # type: ignore[arg-type]
    resumed = last_whole_checkpoint(record.checkpoints)
    record.keep_metrics_until(int(resumed.name.rpartition("-")[2]) if resumed else 0)

    def target_score(step: int) -> float:
        whole = _whole(run, model, device)
        kept = record.folder / "evaluation" / f"step-{step}-{weights_sha256(whole.named_parameters())[:16]}"
        # ended halfway it would be missing: there is no checkpoint of this step yet
        to_its_end = dataclasses.replace(control, should_stop=lambda: False)
        found = evaluate(run, prepared, whole, kept, to_its_end, parts=("target",))
        record.append_metrics(step, found.metrics)
        return found.scores["target"]["mean"]

    agreed((device, settings))  # the other workers wait for it, and train along (gmt/runs/workers.py)
    facts = train_run(
        run,
        prepared,
        model,
        settings,
        device,
        control=control,
        evaluate=target_score,
        on_metrics=record.append_metrics,
    )
    if run.record_settings.keep_weights:
        reshaping.save(record.folder / "adapter")
    reshaping.restore()
    return _whole(run, model, device), reshaping.sizes, facts


def _whole(run: Run, model: PreTrainedModel, device: str) -> PreTrainedModel:
    """The model itself, or, of shards, a copy with the weights of all workers, each of which must gather."""
    whole = gather(model, run.model.load_model)
    whole.to(device)  # type: ignore[arg-type]
    return whole


def _model_on(run: Run, device: str) -> PreTrainedModel:
    model = run.model.load_model()
    model.to(device)  # type: ignore[arg-type]  # transformers wraps the method and loses its signature
    return model


def _before(
    run: Run, record: RunRecord, prepared: Prepared, control: Control, device: str, sources: Sources
) -> dict[str, Any]:
    """The base's scores; a resumed run has them already, and runs of a process that would get the same share them."""
    if (record.folder / "before.json").exists():
        return record.read("before.json")
    kept = folder_of_base(run, sources, device)
    if kept not in prepared.of_base:
        model = _model_on(run, device)
        check_steps(model, prepared.reader.tokenizer, prepared.examples, run.train)  # not after hours of asking
        prepared.of_base[kept] = evaluate(run, prepared, model, kept, control)
    found = prepared.of_base[kept]
    found.keep(record, "before")
    record.keep_metrics_until(-1)
    record.append_metrics(0, found.metrics)
    before = {"scores": found.scores, "metrics": found.metrics}
    record.write("before.json", before)
    return before


class _WithoutSecrets(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """A line of log.txt, its traceback included."""
        return without_secrets(super().format(record))


@contextmanager
def _log_file(record: RunRecord) -> Iterator[None]:
    """What the libraries log goes to the record, not to the terminal."""
    handler = logging.FileHandler(record.folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
