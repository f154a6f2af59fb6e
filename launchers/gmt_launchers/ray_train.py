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
from gmt.runs.stall import START_FILE, no_longer_than
from gmt_launchers.aside import aside
from gmt_launchers.deaths import node_is_lost, note_node, num_noted
from gmt_launchers.process_group import torch_config
from gmt_launchers.ray_internals import raised_on_worker
from gmt_launchers.waiting import reservations

# The others wait in a collective while the first worker evaluates, and that is no hang.
_TIMEOUT_S = 24 * 3600
_LOOK_EVERY_S = 1.0
_OURS = (UserError, RunFailed, RecordBusy, Interrupted)
# Ray Train would ask for its workers' places anew each minute, without a word, and for ever; asked for once, a place is
# seen to be waited for (gmt_launchers.waiting), and what else goes wrong as they start is retried by our own rules.
_ASKS_ONCE = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1000000000"}


def attempt_on_workers(config: Mapping[str, Any], stop: Path, go_on: Callable[[int, float], bool]) -> Outcome:
    """Do a run on its workers, and return the outcome instead of raising errors, as `gmt.runs.attempt.attempt` does.

    `go_on` is not called: a search can't stop such a run early, since its workers are other processes.
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
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0"} | _ASKS_ONCE  # 0: relative paths mean what they mean here
    run = build(config).with_gpus(ray.cluster_resources().get("GPU", 0))
    gpus = run.resources.num_gpus(0)
    with tempfile.TemporaryDirectory(prefix="gmt-train-") as storage:
        trainer = TorchTrainer(
            _work,
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
            # In the main thread Ray Train takes Ctrl-C over, and exits with code 0 on it.
            fit = aside(trainer.fit, "gmt-ray-train")
            _see_workers_start(run, fit)
            fit.result()
        except WorkerGroupError as error:
            raise _cause(run, error) from None
        except (ControllerError, ray.exceptions.RayError) as error:  # its controller failed, or was killed
            reason = _in_short(str(getattr(error, "controller_failure", error)))
            kind = "preempted" if node_is_lost(run.record.folder) else "infrastructure"
            raise RunFailed(f"run {run.id}: Ray Train can't start its workers: {reason}", kind) from error


def _in_short(failure: str) -> str:
    """Return the text of a failure with only the last line of its traceback."""
    said, _, rest = failure.partition("Traceback (most recent call last):")
    last = re.findall(r"^(?:\w+\.)*\w+: .*", rest, re.MULTILINE)[-1:]
    return " ".join([*said.split(), *last])[:300]


def _see_workers_start(run: Run, fit: "Future[Any]") -> None:
    """Wait until a worker has begun; after resources.stall_limit_s, end this process and so its workers.

    Else a worker that is stuck or can't reach the others would block the run until the long timeout of collective
    operations. Time in which other jobs hold the cores or GPUs does not count.
    """
    folder = run.record.folder
    folder.mkdir(parents=True, exist_ok=True)
    num_before = num_noted(folder)
    with no_longer_than(run.resources.stall_limit_s, folder, START_FILE) as on_progress:
        while num_noted(folder) == num_before and not fit.done():
            wait([fit], timeout=_LOOK_EVERY_S)
            with suppress(ray.exceptions.RayError):  # `fit` raises it too
                if reservations().refused:
                    on_progress()


def _work(given: dict[str, Any]) -> None:
    """Do a worker's part of the run; called in each worker, inside the process group."""
    from gmt.runs.workers import execute_on_worker

    os.chdir(given["folder"])
    run = build(given["config"])
    if not run.resources.gpus:
        hide_gpus()
    run.record_settings.close_to_others()
    note_node(run.record.folder, first=False)
    try:
        execute_on_worker(run, given["stop"])
    except _OURS as error:
        error.add_note(traceback.format_exc())  # it travels; Ray's own rendering leaves the frames out
        raise


def _cause(run: Run, error: WorkerGroupError) -> Exception:
    """Return the error of the first worker that failed; the others fail as a consequence."""
    index, failure = min(error.worker_failures.items())
    cause = raised_on_worker(failure)
    died = isinstance(cause, ray.exceptions.RayError)
    kind = "infrastructure" if died else kind_of(cause)
    if (kind == "infrastructure" or getattr(cause, "kind", "") == "infrastructure") and node_is_lost(run.record.folder):
        kind = "preempted"
    elif isinstance(cause, _OURS):
        return cause
    lost = RunFailed(f"run {run.id} failed on worker {index}: {' '.join(str(cause).split())[:300]}", kind)
    lost.add_note(str(failure))
    return lost
