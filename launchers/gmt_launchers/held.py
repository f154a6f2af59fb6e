"""Holds jobs back while the driver checks their runs; meanwhile their workers import libraries."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_POLL_S = 0.02


@dataclass(frozen=True)
class Gate:
    """A gate at which workers on this machine wait until the driver opens the gate.

    Args:
        folder: the folder of the gate's file; the gate is open once the file exists.
    """

    folder: Path

    @property
    def is_open(self) -> bool:
        """Whether jobs may begin."""
        return self._file.exists()

    def let_jobs_begin(self) -> None:
        """Open the gate, so that all jobs begin."""
        self._file.touch()

    def wait(self, prepare: Callable[[], None]) -> None:
        """Call `prepare` unless the gate is open, then wait until the gate is open; called in a worker."""
        if not self.is_open:
            prepare()
        while not self.is_open:
            time.sleep(_POLL_S)

    @property
    def _file(self) -> Path:
        return self.folder / "open"


@dataclass(frozen=True, kw_only=True)
class HeldJobs:
    """The state of jobs that the driver holds back.

    Args:
        gate: the gate at which the jobs' workers wait.
        num_waiting: the number of jobs that may get workers while the gate is closed; more would take the driver's
            core.
        are_handed_out: set once `num_waiting` jobs have been handed out to workers, or no other job can be handed out.
        must_end: set to end all jobs immediately.
    """

    gate: Gate
    num_waiting: int
    are_handed_out: threading.Event = field(default_factory=threading.Event)
    must_end: threading.Event = field(default_factory=threading.Event)
