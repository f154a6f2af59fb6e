"""Holds jobs back until their runs have been checked; meanwhile their workers import libraries and check the runs."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from gmt.records.record import write_whole

_POLL_S = 0.02
_NOTE_EVERY_S = 1.0
_OPEN, _CHECKING, _NUM_CHECKED, _FAULTS = "open", "checking", "num_checked.json", "faults.json"  # names of files

# Returns a sentence for each fault of all runs; calls its argument with the number of runs that it has checked.
Check = Callable[[Callable[[int], None]], Sequence[str]]


@dataclass(frozen=True)
class Gate:
    """A gate at which workers on this machine check all runs, and wait until the driver opens the gate.

    Args:
        folder: the folder of the gate's files.
    """

    folder: Path

    @property
    def is_open(self) -> bool:
        """Whether jobs may begin."""
        return (self.folder / _OPEN).exists()

    def let_jobs_begin(self) -> None:
        """Open the gate, so that all jobs begin."""
        (self.folder / _OPEN).touch()

    def wait(self, prepare: Callable[[], None], check: Check | None) -> None:
        """Wait until the gate is open; called in a worker.

        Args:
            prepare: called first, unless the gate is open.
            check: called after `prepare`, in the first worker only; None if the driver checks the runs.
        """
        if not self.is_open:
            prepare()
        if check is not None and not self.is_open and self._is_first_worker():
            write_whole(self.folder / _FAULTS, json.dumps(list(check(self._note_num_checked))))
        while not self.is_open:
            time.sleep(_POLL_S)

    def faults(self) -> Sequence[str] | None:
        """Return the faults of all runs that a worker has found; None before it has checked them."""
        faults: list[str] | None = self._read(_FAULTS)
        return faults

    def num_checked(self) -> int:
        """Return how many runs the worker had checked about a second ago."""
        return int(self._read(_NUM_CHECKED) or 0)

    def _read(self, name: str) -> Any:
        """Return the content of a file; None if there is no such file."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _note_num_checked(self, number: int) -> None:
        path = self.folder / _NUM_CHECKED
        if not path.exists() or time.time() - path.stat().st_mtime > _NOTE_EVERY_S:
            write_whole(path, json.dumps(number))

    def _is_first_worker(self) -> bool:
        try:
            (self.folder / _CHECKING).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class HeldJobs:
    """The state of jobs that the driver holds back.

    Args:
        gate: the gate at which the jobs' workers wait.
        num_waiting: the number of jobs that may get workers while the gate is closed and the driver computes; more
            would take the driver's core.
        driver_waits: set once the driver only waits, so that one more job may get a worker.
        are_handed_out: set once `num_waiting` jobs have been handed out to workers, no other job can be handed out, or
            a worker has begun to wait at the gate.
        no_check: resolved with the reason once it is certain that no worker will check the runs.
        must_end: set to end all jobs immediately.
    """

    gate: Gate
    num_waiting: int
    driver_waits: threading.Event = field(default_factory=threading.Event)
    are_handed_out: threading.Event = field(default_factory=threading.Event)
    no_check: "Future[str]" = field(default_factory=Future)
    must_end: threading.Event = field(default_factory=threading.Event)

    def at_most(self, number: int) -> Self:
        """Return the same state with at most a number of waiting jobs: the jobs for which there is room."""
        return replace(self, num_waiting=min(self.num_waiting, number))

    def limit(self) -> int | None:
        """Return the most jobs that may have workers now; None for no limit."""
        if self.gate.is_open:
            return None
        return self.num_waiting + (1 if self.driver_waits.is_set() else 0)

    def note_no_check(self, why: str) -> None:
        """Note that no worker will check the runs; only the first reason counts."""
        if not self.no_check.done():
            self.no_check.set_result(why)
