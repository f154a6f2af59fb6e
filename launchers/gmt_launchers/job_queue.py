"""Gives jobs to Ray Tune one by one, and again if they must be repeated. Does not depend on the content of jobs."""

import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from gmt_launchers.held import HeldJobs

RESULT = "job_result"  # the key under which a worker reports what its job returned
_ASK_AGAIN_S = 1.0


def _begins_at_once() -> bool:
    return True


class Ready(Enum):
    """Whether to start a job now, later or never."""

    GO = "go"
    LATER = "later"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of one worker.

    Args:
        work: the function that the worker calls. Its argument is a function that reports a step and a score, and
            returns whether to continue. Its result is returned pickled.
        cpus, gpus, memory_bytes: the resources that Ray reserves.
        has_begun: returns whether a job that has a worker has begun; it may first wait for more workers.
    """

    work: Callable[[Callable[[int, float], bool]], Any]
    cpus: float
    gpus: float
    memory_bytes: int | None
    has_begun: Callable[[], bool] = _begins_at_once

    def __deepcopy__(self, memo: object) -> "Job":
        """Return the job itself, since Tune copies the config of each trial, and a job never changes."""
        return self

    def __repr__(self) -> str:
        """Return a short text, since Tune writes the config of each trial into its name."""
        return "job"


class Owner(Protocol):
    """The owner of jobs, which decides when they start and whether they are repeated."""

    def ready(self, index: int) -> Ready:
        """Return whether to start a job now."""
        ...

    def handle_result(self, index: int, result: Any) -> float | None:
        """Take the result of a job; return the seconds after which to repeat the job, None not to repeat it."""
        ...

    def handle_death(self, index: int, error: Exception) -> float | None:
        """Take the error of a job that raised or whose worker died; return as `handle_result` does."""
        ...

    def note_early_stop(self, index: int) -> None:
        """Note that the scheduler has stopped a job early."""
        ...

    def is_stopped(self) -> bool:
        """Return whether no more jobs are to start."""
        ...

    def is_working(self) -> bool:
        """Return whether a job is at work, by what it has recorded and not by what Ray says."""
        ...


class JobQueue(Searcher):  # type: ignore[misc]  # Ray ships no types
    """A searcher of Ray Tune that suggests the next job while there is one.

    Args:
        jobs: the jobs.
        owner: decides on each job.
        max_parallel: the most jobs at a time; None for no limit.
        held: the state of jobs that the driver holds back; None for jobs that may begin at once.
    """

    def __init__(
        self, jobs: Sequence[Job], owner: Owner, max_parallel: int | None = None, held: HeldJobs | None = None
    ):
        super().__init__()
        self._jobs, self._owner, self._max_parallel, self._held = jobs, owner, max_parallel, held
        self._waiting = deque(range(len(jobs)))
        self._not_before: dict[int, float] = {}
        self._running: dict[str, int] = {}
        self._started: set[str] = set()
        self.abandoned = False

    def abandon(self) -> None:
        """Make Tune end now, even while jobs run."""
        self.abandoned = True

    def is_stopped(self) -> bool:
        """Return whether no more jobs are to start."""
        return self._owner.is_stopped()

    def note_start(self, trial_id: str) -> None:
        """Note that a worker has received a job."""
        self._started.add(trial_id)
        if self._held is not None:
            self._held.are_handed_out.set()

    def is_starting(self) -> bool:
        """Return whether there are jobs to do now and none has begun."""
        running = tuple(self._running.items())
        return bool(running) and not any(id_ in self._started and self._jobs[i].has_begun() for id_, i in running)

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next trial, None to be asked again later, or FINISHED when all jobs are over."""
        config = self._next_config(trial_id)
        if self._held is not None and (not isinstance(config, dict) or len(self._running) >= self._held.num_waiting):
            self._held.are_handed_out.set()
            if not self._running:
                self._held.note_no_check("no run can begin now")
        return config

    def _next_config(self, trial_id: str) -> Any:
        if self._owner.is_stopped():
            self._waiting.clear()
        limits = [self._max_parallel, None if self._held is None else self._held.limit()]
        if any(limit is not None and len(self._running) >= limit for limit in limits):
            return None
        for _ in range(len(self._waiting)):
            index = self._waiting.popleft()
            ready = Ready.LATER if self._not_before.get(index, 0) > time.monotonic() else self._owner.ready(index)
            if ready is Ready.GO:
                self._running[trial_id] = index
                return {"job": self._jobs[index]}
            if ready is Ready.LATER:
                self._not_before.setdefault(index, 0)
                self._waiting.append(index)
                if self._not_before[index] <= time.monotonic():
                    self._not_before[index] = time.monotonic() + _ASK_AGAIN_S
        return None if self._waiting or self._running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Handle the end of a trial. A trial with neither a result nor an error was stopped by the scheduler."""
        if not error and (index := self._take(trial_id, "it was stopped")) is not None:
            self._owner.note_early_stop(index)

    def handle_result(self, trial_id: str, result: Any) -> None:
        """Handle the result of a job."""
        if (index := self._take(trial_id, "it returned")) is not None:
            self._repeat_after(index, self._owner.handle_result(index, result))

    def handle_error(self, trial_id: str, error: Exception) -> None:
        """Handle the error of a job that raised or whose worker died."""
        if (index := self._take(trial_id, str(error).strip().rpartition("\n")[2])) is not None:
            self._repeat_after(index, self._owner.handle_death(index, error))

    def _take(self, trial_id: str, why: str) -> int | None:
        """Return the index of the job of a trial that has ended, and forget the trial; None if that was done before."""
        if self._held is not None:
            self._held.note_no_check(f"a worker ended before all runs were checked: {why}")
        return self._running.pop(trial_id, None)

    def _repeat_after(self, index: int, after_s: float | None) -> None:
        if after_s is not None:
            self._not_before[index] = time.monotonic() + after_s
            self._waiting.append(index)

    # Tune saves and restores searchers and callbacks; a sweep is resumed from the run records instead.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class QueueCallback(Callback):  # type: ignore[misc]  # Ray ships no types
    """Passes results and errors from Tune to the queue."""

    def __init__(self, queue: JobQueue):
        self._queue = queue

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End Tune's loop if the queue is abandoned; an error would make Tune end each worker in order first.

        Tune calls this about ten times a second.
        """
        if self._queue.abandoned:
            sys.exit()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell the queue that a worker has started a job."""
        self._queue.note_start(trial.trial_id)

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **info: Any) -> None:
        """Pass on a worker's last report, which holds the job's result; earlier ones hold scores."""
        if RESULT in result:
            self._queue.handle_result(trial.trial_id, result[RESULT])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on the error of a job that raised or whose worker died."""
        self._queue.handle_error(trial.trial_id, _error_of(trial))


def _error_of(trial: Trial) -> Exception:
    """Return a trial's error from the files that Tune writes at once; those of `get_pickled_error` come later."""
    for path in (trial.pickled_error_file, trial.error_file):
        if path is not None and Path(path).exists():
            data = Path(path).read_bytes()
            error: Exception = pickle.loads(data) if path == trial.pickled_error_file else RuntimeError(data.decode())
            return error
    return RuntimeError("Tune gives no reason")
