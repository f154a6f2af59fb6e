"""Holds jobs back until their runs have been checked; meanwhile their workers import libraries and check the runs."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gmt.records.record import write_whole

_POLL_S = 0.02
_OPEN, _CHECKING, _FAULTS = "open", "checking", "faults.json"  # names of files


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

    def wait(self, prepare: Callable[[], None], check: Callable[[], Sequence[str]]) -> None:
        """Wait until the gate is open; called in a worker.

        Args:
            prepare: called first, unless the gate is open.
            check: returns the faults of all runs; then called in the first worker only.
        """
        if not self.is_open:
            prepare()
        if not self.is_open and self._is_first_worker():
            write_whole(self.folder / _FAULTS, json.dumps(list(check())))
        while not self.is_open:
            time.sleep(_POLL_S)

    def faults(self) -> Sequence[str] | None:
        """Return the faults of all runs that a worker has found; None before it has checked them."""
        try:
            faults: list[str] = json.loads((self.folder / _FAULTS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return faults

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
        are_handed_out: set once `num_waiting` jobs have been handed out to workers, or no other job can be handed out.
        is_unchecked: set if no worker will check the runs: one has ended, or there is no job to hand out.
        must_end: set to end all jobs immediately.
    """

    gate: Gate
    num_waiting: int
    driver_waits: threading.Event = field(default_factory=threading.Event)
    are_handed_out: threading.Event = field(default_factory=threading.Event)
    is_unchecked: threading.Event = field(default_factory=threading.Event)
    must_end: threading.Event = field(default_factory=threading.Event)

    def limit(self) -> int | None:
        """Return the most jobs that may have workers now; None for no limit."""
        if self.gate.is_open:
            return None
        return self.num_waiting + self.driver_waits.is_set()
