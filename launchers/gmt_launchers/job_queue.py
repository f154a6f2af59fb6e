"""Hands jobs to Ray Tune one by one, and takes back what has to be done again. Knows nothing of what a job is."""

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

RESULT = "job_result"  # the key under which a worker reports what its job returned
_LATER_S = 1.0


def _begins_at_once() -> bool:
    return True


class Ready(Enum):
    """Whether a job is to be started now."""

    GO = "go"
    LATER = "later"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one worker does at a time.

    Args:
        work: runs in the worker with a function that reports an intermediate step and score, and answers whether to
            go on; what it returns travels back pickled.
        cpus, gpus, memory_bytes: what Ray reserves for it.
        has_begun: returns whether a job that has a worker is at work; it may wait for further workers first.
    """

    work: Callable[[Callable[[int, float], bool]], Any]
    cpus: float
    gpus: float
    memory_bytes: int | None
    has_begun: Callable[[], bool] = _begins_at_once

    def __deepcopy__(self, memo: object) -> "Job":
        """Itself: Tune copies the config of each trial, and a job is never changed."""
        return self

    def __repr__(self) -> str:
        """Short: Tune writes the config of each trial into its name."""
        return "job"


class Owner(Protocol):
    """Whose jobs they are: decides what is started, and what is done again."""

    def ready(self, index: int) -> Ready:
        """Asked before a job is started."""
        ...

    def ended(self, index: int, result: Any) -> float | None:
        """A job returned; seconds after which it is to be begun again, None if it is over."""
        ...

    def died(self, index: int, error: Exception) -> float | None:
        """A job raised, or its worker died; likewise."""
        ...

    def given_up(self, index: int) -> None:
        """The scheduler stopped a job early."""
        ...

    def stopped(self) -> bool:
        """Whether nothing more is to be started."""
        ...


class JobQueue(Searcher):  # type: ignore[misc]  # Ray ships no types
    """A searcher in Tune's sense: it suggests the next job as long as there is one."""

    def __init__(self, jobs: Sequence[Job], owner: Owner, at_once: int | None):
        super().__init__()
        self._jobs, self._owner, self._at_once = jobs, owner, at_once
        self._waiting = deque(range(len(jobs)))
        self._not_before: dict[int, float] = {}
        self._running: dict[str, int] = {}
        self._started: set[str] = set()
        self.abandoned = False

    def abandon(self) -> None:
        """Tune is to end now, with whatever is going on."""
        self.abandoned = True

    def is_stopped(self) -> bool:
        """Whether nothing more is to be started."""
        return self._owner.stopped()

    def started(self, trial_id: str) -> None:
        """A job has come to a worker."""
        self._started.add(trial_id)

    def is_starting(self) -> bool:
        """Return True if there are jobs to do now and none has begun."""
        running = tuple(self._running.items())
        return bool(running) and not any(id_ in self._started and self._jobs[i].has_begun() for id_, i in running)

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial, None to be asked again, FINISHED when all is over."""
        if self._owner.stopped():
            self._waiting.clear()
        if self._at_once is not None and len(self._running) >= self._at_once:
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
                    self._not_before[index] = time.monotonic() + _LATER_S
        return None if self._waiting or self._running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended; one that did so without a result or an error was stopped by the scheduler."""
        if not error and (index := self._running.pop(trial_id, None)) is not None:
            self._owner.given_up(index)

    def returned(self, trial_id: str, result: Any) -> None:
        """A job has returned."""
        if (index := self._running.pop(trial_id, None)) is not None:
            self._again(index, self._owner.ended(index, result))

    def failed(self, trial_id: str, error: Exception) -> None:
        """A job has raised, or its worker died."""
        if (index := self._running.pop(trial_id, None)) is not None:
            self._again(index, self._owner.died(index, error))

    def _again(self, index: int, after_s: float | None) -> None:
        if after_s is not None:
            self._not_before[index] = time.monotonic() + after_s
            self._waiting.append(index)

    # Tune saves and restores searchers and callbacks; a sweep is resumed from the run records instead.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Keeps nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Takes up nothing."""


class QueueCallback(Callback):  # type: ignore[misc]  # Ray ships no types
    """Brings results and errors from Tune to the queue."""

    def __init__(self, queue: JobQueue):
        self._queue = queue

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune's loop begins another round, ten a second; on an error it would first end each worker in order."""
        if self._queue.abandoned:
            sys.exit()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A worker has taken a job up."""
        self._queue.started(trial.trial_id)

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **info: Any) -> None:
        """A worker has reported; only its last report holds a job's result."""
        if RESULT in result:
            self._queue.returned(trial.trial_id, result[RESULT])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A job has raised, or its worker died."""
        self._queue.failed(trial.trial_id, _error_of(trial))


def _error_of(trial: Trial) -> Exception:
    """What was raised; Tune writes it here at once, and only later to where `get_pickled_error` reads."""
    for path in (trial.pickled_error_file, trial.error_file):
        if path is not None and Path(path).exists():
            data = Path(path).read_bytes()
            error: Exception = pickle.loads(data) if path == trial.pickled_error_file else RuntimeError(data.decode())
            return error
    return RuntimeError("Tune gives no reason")
