"""Holds runs back while the driver still checks them; their workers import libraries meanwhile."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class Gate:
    """A gate at which workers on this machine wait until the driver opens it.

    Args:
        folder: a folder for the gate's file.
    """

    folder: Path

    @property
    def is_open(self) -> bool:
        """Whether runs may begin."""
        return self._file.exists()

    def open(self) -> None:
        """Let all runs begin."""
        self._file.touch()

    def wait(self, prepare: Callable[[], None]) -> None:
        """In a worker: prepare unless the gate is open, then wait until it is."""
        if not self.is_open:
            prepare()
        while not self.is_open:
            time.sleep(_LOOK_EVERY_S)

    @property
    def _file(self) -> Path:
        return self.folder / "open"


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the driver knows of jobs that it holds back.

    Args:
        gate: the gate at which their workers wait.
        num_waiting: how many jobs may get workers before the gate is open, since these take cores from the driver.
        handed_out: set once these jobs are handed out, or there is none to hand out.
        over: set to end all jobs at once.
    """

    gate: Gate
    num_waiting: int
    handed_out: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
