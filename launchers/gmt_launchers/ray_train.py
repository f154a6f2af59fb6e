"""Does one run on several workers by Ray Train: each is a process with cores and GPUs of its own, on any node.

Ray Train places the workers, makes their process group, and ends all of them when one fails. It neither reports nor
stores anything: the outcome of the run is in its record.
"""

import logging
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from gmt.errors import Interrupted, RunFailed, UserError
from gmt.records.record import RecordBusy
from gmt.runs.attempt import Outcome, outcome_of
from gmt.runs.build import Run, build
from gmt.runs.failures import kind_of
from gmt.runs.gpus import hide_gpus
from gmt.runs.stall import START_FILE, end_on_stall
from gmt_launchers.daemon_thread import call_in_daemon_thread
from gmt_launchers.deaths import node_is_lost, note_node, num_noted_processes
from gmt_launchers.process_group import torch_config
from gmt_launchers.ray_internals import raised_on_worker
from gmt_launchers.waiting import reservations

# The other workers wait in a collective operation while the first worker evaluates, and must not time out.
_TIMEOUT_S = 24 * 3600
_POLL_S = 1.0
_OWN_ERRORS = (UserError, RunFailed, RecordBusy, Interrupted)
# By default Ray Train repeats its reservation of the workers' resources every minute, silently and for ever. A single
# reservation lets gmt_launchers.waiting print that the run waits; our own rules retry other faults of the start.
_RESERVE_ONCE = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1000000000"}


def attempt_on_workers(config: Mapping[str, Any], stop: Path, report_score: Callable[[int, float], bool]) -> Outcome:
    """Do a run on its workers, and return the outcome instead of raising errors, as `gmt.runs.attempt.attempt` does.

    `report_score` is not called: a search can't stop such a run early, since its workers are other processes.
    """
    return outcome_of(lambda: run_on_workers(config, stop))


def run_on_workers(config: Mapping[str, Any], stop: Path) -> None:
    """Do a run to its end on `resources.workers` workers.

    Ray must have been started. The caller, a driver or a Tune trial, only waits and needs a fraction of a core.
    `record.root` must be a folder that all nodes share.

    Args:
        config: the run's resolved config, as plain values.
        stop: the stop file: once it exists, the run ends after its next step.

    Raises:
        UserError, RecordBusy, Interrupted, RunFailed: the error of the first worker that failed, with its traceback
            as a note.
    """
    assert ray.is_initialized()
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0"} | _RESERVE_ONCE  # 0: relative paths mean the same as here
    run = build(config).with_gpus(ray.cluster_resources().get("GPU", 0))
    gpus = run.resources.num_gpus(0)
    with tempfile.TemporaryDirectory(prefix="gmt-train-") as storage:
        trainer = TorchTrainer(
            _do_part,
            train_loop_config={"folder": os.getcwd(), "config": run.config, "stop": stop},
            scaling_config=ScalingConfig(
                num_workers=run.resources.workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": run.resources.cpus, "GPU": gpus},
            ),
            torch_config=torch_config(storage, _TIMEOUT_S),
            run_config=RunConfig(
                name=run.id, storage_path=storage, failure_config=FailureConfig(controller_failure_limit=0)
            ),
        )
        try:
            # In the main thread Ray Train would handle Ctrl-C, and exit with code 0.
            fit = call_in_daemon_thread(trainer.fit, "gmt-ray-train")
            _wait_for_first_worker(run, fit)
            fit.result()
        except WorkerGroupError as error:
            raise _first_error(run, error) from None
        except (ControllerError, ray.exceptions.RayError) as error:  # its controller failed, or was killed
            reason = _shortened(str(getattr(error, "controller_failure", error)))
            kind = "preempted" if node_is_lost(run.record.folder) else "infrastructure"
            raise RunFailed(f"run {run.id}: Ray Train can't start its workers: {reason}", kind) from error


def _shortened(failure: str) -> str:
    """Return the text of a failure with only the last line of its traceback."""
    message, _, rest = failure.partition("Traceback (most recent call last):")
    last = re.findall(r"^(?:\w+\.)*\w+: .*", rest, re.MULTILINE)[-1:]
    return " ".join([*message.split(), *last])[:300]


def _wait_for_first_worker(run: Run, fit: "Future[Any]") -> None:
    """Wait until a worker has begun; after resources.stall_limit_s, end this process and so its workers.

    Otherwise a worker that is stuck, or can't reach the others, would block the run until the long timeout of
    collective operations. Time in which other jobs hold the cores or GPUs does not count.
    """
    folder = run.record.folder
    folder.mkdir(parents=True, exist_ok=True)
    num_before = num_noted_processes(folder)
    with end_on_stall(run.resources.stall_limit_s, folder, START_FILE) as on_progress:
        while num_noted_processes(folder) == num_before and not fit.done():
            wait([fit], timeout=_POLL_S)
            with suppress(ray.exceptions.RayError):  # `fit` raises it too
                if reservations().pending:
                    on_progress()


def _do_part(settings: dict[str, Any]) -> None:
    """Do a worker's part of the run; called in each worker, inside the process group."""
    from gmt.runs.workers import execute_on_worker

    os.chdir(settings["folder"])
    run = build(settings["config"])
    if not run.resources.gpus:
        hide_gpus()
    run.record_settings.close_to_others()
    note_node(run.record.folder, first=False)
    try:
        execute_on_worker(run, settings["stop"])
    except _OWN_ERRORS as error:
        error.add_note(traceback.format_exc())  # Ray passes notes on, but leaves out the frames
        raise


def _first_error(run: Run, error: WorkerGroupError) -> Exception:
    """Return the error of the first worker that failed; the others fail as a consequence."""
    index, failure = min(error.worker_failures.items())
    cause = raised_on_worker(failure)
    is_death = isinstance(cause, ray.exceptions.RayError)
    kind = "infrastructure" if is_death else kind_of(cause)
    if (kind == "infrastructure" or getattr(cause, "kind", "") == "infrastructure") and node_is_lost(run.record.folder):
        kind = "preempted"
    elif isinstance(cause, _OWN_ERRORS):
        return cause
    run_failed = RunFailed(f"run {run.id} failed on worker {index}: {' '.join(str(cause).split())[:300]}", kind)
    run_failed.add_note(str(failure))
    return run_failed
