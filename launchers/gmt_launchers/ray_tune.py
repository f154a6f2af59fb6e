"""Does jobs as Ray Tune trials in reused workers, which import libraries once; a death does not affect other jobs."""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any

from ray import tune
from ray.tune import FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import TrialScheduler

from gmt.errors import RunFailed
from gmt.terminal import say
from gmt_launchers.cluster import Head
from gmt_launchers.daemon_thread import call_in_daemon_thread
from gmt_launchers.held import HeldJobs
from gmt_launchers.job_queue import RESULT, Job, JobQueue, Owner, QueueCallback
from gmt_launchers.ray_internals import handle_errors_as_deaths, in_prestarted_workers, resource_of_head
from gmt_launchers.waiting import Waiting

# Read by Tune in the driver.
_DRIVER_VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run records have the results; Tune need not log them again
    "RAY_AIR_NEW_OUTPUT": "0",  # no table of its own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a job's last report has its result and no score
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # a sweep is resumed from the run records
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1000000",
}
_POLL_S = 0.5
_NEXT_TO_NOTHING = 0.001
_ABANDON_S = 10.0
_LEAVE_S = 50.0  # Ray ends its workers a minute after they have lost the head

# Read by Tune in its workers; a run that is stopped early writes a checkpoint before its worker is free.
_WORKER_VARIABLES = {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "600"}


def run_jobs(
    jobs: Sequence[Job],
    owner: Owner,
    head: Head,
    *,
    max_parallel: int | None = None,
    scheduler: TrialScheduler | None = None,
    held: HeldJobs | None = None,
) -> None:
    """Do jobs on the connected cluster until the owner starts no more.

    Args:
        jobs: the jobs; those with equal resources share workers.
        owner: decides on each job, and receives its outcome.
        head: the cluster's head.
        max_parallel: the most jobs at a time, in addition to the limits of their resources; None for no limit.
        scheduler: stops jobs early by the scores that they report; None stops none.
        held: the state of jobs that the driver holds back: their `work` waits at `held.gate`, and `held.must_end` ends
            them. None for jobs that begin at once; KeyboardInterrupt ends those.

    Raises:
        RunFailed: the cluster's head was lost.
    """
    os.environ |= _DRIVER_VARIABLES
    handle_errors_as_deaths()
    queue = JobQueue(jobs, owner, max_parallel, held)
    with (
        tempfile.TemporaryDirectory(prefix="gmt-tune-") as storage,
        in_prestarted_workers() if head.is_local else contextlib.nullcontext(),
        Waiting(say, queue.is_starting) as waiting,
    ):
        must_end = threading.Event() if held is None else held.must_end
        _wait_for(_tuner(queue, scheduler, storage).fit, queue, owner, head, waiting, must_end)


def _tuner(queue: JobQueue, scheduler: TrialScheduler | None, storage: str) -> Tuner:
    """Return a tuner whose trials are the queue's jobs; `storage` is the folder for Tune's own files."""
    folder = os.getcwd()

    def trial(config: dict[str, Any]) -> None:
        os.environ |= _WORKER_VARIABLES
        with contextlib.suppress(FileNotFoundError):  # on another node the driver's folder may not exist
            os.chdir(folder)  # a job's relative paths mean what they mean in the driver, not in Tune's folder
        reporter = _Reporter()
        result = config["job"].work(reporter.report)
        if reporter.stopped:
            sys.exit(0)  # Tune no longer reads reports, and a report would wait for ever
        tune.report({RESULT: result})

    return Tuner(
        tune.with_resources(trial, lambda config: _resources(config["job"])),
        tune_config=TuneConfig(
            search_alg=queue,
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=_trial_folder_name,
        ),
        run_config=RunConfig(
            name="sweep",
            storage_path=storage,
            verbose=0,
            callbacks=[QueueCallback(queue)],
            failure_config=FailureConfig(max_failures=0),  # the queue decides on retries
        ),
    )


def _wait_for(
    fit: Callable[[], object],
    queue: JobQueue,
    owner: Owner,
    head: Head,
    waiting: Waiting,
    must_end: threading.Event,
) -> None:
    """Call `fit` in another thread and wait for it: if the head is lost, calls of Ray never return."""
    future = call_in_daemon_thread(fit, "gmt-tune")
    try:
        while not future.done():
            wait([future], timeout=_POLL_S)
            if head.lost is not None:
                if must_end.is_set() or (owner.is_stopped() and _end_soon(owner)):
                    return
                raise RunFailed(head.lost)
            if must_end.is_set() or (
                queue.is_stopped() and waiting.is_silent
            ):  # no job makes progress, so none would end by itself
                queue.abandon()
                wait([future], timeout=_ABANDON_S)
                return
    except KeyboardInterrupt:
        queue.abandon()
        wait([future], timeout=_ABANDON_S)  # Ray must not be left while a call of Tune's is inside it: that crashes
        raise
    future.result()


def _end_soon(owner: Owner) -> bool:
    """Wait until no job is at work; return whether that came before Ray ends its workers, which have lost the head."""
    deadline = time.monotonic() + _LEAVE_S
    while owner.is_working():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


class _Reporter:
    """Reports scores from the worker to the scheduler, and learns whether the scheduler has stopped the job."""

    def __init__(self) -> None:
        self.stopped = False

    def report(self, step: int, score: float) -> bool:
        """Report a score; return whether to continue."""
        try:
            tune.report({"step": step, "score": score})
        except SystemExit:  # so Tune ends the thread of a trial that it stops
            self.stopped = True
        return not self.stopped


def _resources(job: Job) -> PlacementGroupFactory:
    wanted = {"CPU": job.cpus, "GPU": job.gpus, "memory": job.memory_bytes or 0}
    reserved = {name: float(amount) for name, amount in wanted.items() if amount}
    # Tune takes no trial that reserves nothing. No run uses this resource; only the head has it, and must not be lost.
    return PlacementGroupFactory([reserved or {resource_of_head(): _NEXT_TO_NOTHING}])


def _trial_folder_name(trial: Any) -> str:
    return str(trial.trial_id)
