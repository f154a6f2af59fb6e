"""Executes one run, from its config to its finished record. A finished run is not executed again."""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from gmt.errors import Interrupted, RunFailed, StoppedEarly, UserError
from gmt.merges.protocol import ChoosesParents
from gmt.records.record import RunRecord
from gmt.runs.build import Run
from gmt.runs.code_versions import code_of, code_of_environment, combined_versions, outside_versions
from gmt.runs.device import check_device, device_of
from gmt.runs.environment import environment
from gmt.runs.failures import kind_of
from gmt.runs.gpus import gpus_here
from gmt.runs.hermetic import remove_variables
from gmt.runs.log_file import log_file
from gmt.runs.measure import check_measuring
from gmt.runs.method_check import check_method
from gmt.runs.parent_weights import bases
from gmt.runs.parents import check_parents
from gmt.runs.prepare import Prepared, prepare
from gmt.runs.recorded_failure import failure_in_words, record_failure
from gmt.runs.run_context import RunContext
from gmt.runs.sources import Sources, hub_versions, sources_of
from gmt.runs.stages import do_stages
from gmt.runs.validation import validation_suites
from gmt.training.control import Control
from gmt.training.workers import num_workers

_NO_CONTROL = Control()


def execute(run: Run, control: Control = _NO_CONTROL) -> RunRecord:
    """Execute a run, or resume it where it stopped.

    Returns:
        The record, in the state `done`.

    Raises:
        UserError: a setting is wrong, and the record says `failed` if only the evaluation of the base revealed it; or
            the run is done, and its record has changed since.
        RecordBusy: another process is working on the run.
        Interrupted, StoppedEarly: `control` demanded it; the run can be resumed from its record.
        RunFailed: the run failed; the record holds the traceback.
    """
    remove_variables(in_group=num_workers() > 1)  # libraries may have set some in an earlier run of this process
    run = run.with_gpus(gpus_here())
    check_device(run.resources)
    if num_workers() != (workers := run.resources.workers):
        raise UserError(
            f"resources.workers must be {num_workers()} here, got {workers}: the launcher ray_tune starts several "
            "workers, by `gmt run -m` or `gmt sweep`"
        )
    record = run.record
    run.record_settings.close_to_others()
    if record.exists():
        record.check()
    prepared = prepare(run)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for each checkpoint would hide our own lines
    if record.state() != "done":
        _check_feasible(run, prepared)
    record.create(run.science, run.config)
    with record.locked():
        record.check_unchanged()
        if record.state() != "done":
            _work(run, record, prepared, control)
    return record


def _check_feasible(run: Run, prepared: Prepared) -> None:
    """Refuse a run whose method, selection or merge can't work, before its record says that it has begun."""
    if run.merge is None:
        check_method(run, prepared, run.model.base)
        check_measuring(run)
        return
    check_parents(run)
    bases(run, {})
    if isinstance(run.merge, ChoosesParents):
        validation_suites(run.merge.validation, prepared)


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
    record.note_evaluation(None)  # clears the progress of an attempt that was killed during an evaluation
    with log_file(record):
        try:
            result = do_stages(_context(run, record, prepared, control))
        except (KeyboardInterrupt, Interrupted):
            record.set_status("interrupted", ended_at=time.time())
            raise
        except StoppedEarly as stopped:
            record.set_status("stopped", ended_at=time.time(), error=str(stopped))
            raise
        # the run's boundary: a failure, or a plug-in's sys.exit, becomes this run's outcome and ends no other run
        except (Exception, SystemExit) as error:
            kind = kind_of(error)
            record_failure(record, error, kind)
            if kind == "user":
                raise
            raise RunFailed(failure_in_words(f"run {record.id} failed", error, record.id), kind) from error
    seconds = None if seconds_before is None else seconds_before + time.perf_counter() - started
    record.write("result.json", replace(result, seconds=seconds).to_json())
    record.drop_checkpoints()
    record.drop_evaluation()
    record.finish(ended_at=time.time())


def _seconds(status: Mapping[str, Any]) -> float | None:
    """Return the seconds of all attempts so far; None if an attempt was killed, since its end was not recorded."""
    if "started_at" not in status:
        return 0.0
    before, ended_at = status.get("seconds_before"), status.get("ended_at")
    if status["state"] == "running" or before is None or ended_at is None:
        return None
    return float(before + ended_at - status["started_at"])


def _context(run: Run, record: RunRecord, prepared: Prepared, control: Control) -> RunContext:
    """Return the context of this attempt; set up torch, and record the attempt's code and machine."""
    device = device_of(run.resources)
    torch.set_num_threads(run.resources.cpus)
    torch.set_float32_matmul_precision("highest")  # an earlier run's method, or TORCH_ALLOW_TF32_..., may have set it
    sources = sources_of(run, prepared)
    record.write("environment.json", _environment(run, record, sources) | {"device": device})
    return RunContext(run=run, record=record, prepared=prepared, control=control, device=device, sources=sources)


def _environment(run: Run, record: RunRecord, sources: Sources) -> dict[str, Any]:
    """Return this attempt's environment, with the code and the uncommitted changes of earlier attempts."""
    current = environment() | {"outside": outside_versions(run.config)}
    code = code_of(run.config) | hub_versions(sources)
    earlier = record.read("environment.json") if (record.folder / "environment.json").exists() else {}
    dirty = True if earlier.get("dirty") else current["dirty"]
    all_code = combined_versions(code_of_environment(earlier), code)
    return current | {"dirty": dirty, "code": all_code, "sources": sources}
