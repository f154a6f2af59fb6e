"""Progress, stop requests and locks of a process that evaluates a model for a long time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gmt.errors import Interrupted
from gmt.records.record import RunRecord
from gmt.training.control import Control

_INTERVAL_S = 1.0  # between writes of the progress, and between checks for a stop while waiting for a lock


def progress_reporter(name: str, record: RunRecord, control: Control) -> Callable[[int, int], None]:
    """Return a callback that an evaluation calls after each batch, with the numbers of answers so far and in all.

    Args:
        name: the name of the evaluation.
        record: the run record; progress is written into it, for other processes, at most once a second.
        control: receives progress; if it demands a stop, the callback raises Interrupted.
    """
    written_at = 0.0

    def on_progress(num_done: int, num_all: int) -> None:
        nonlocal written_at
        _check_stop(control)
        if time.monotonic() - written_at >= _INTERVAL_S:
            written_at = time.monotonic()
            record.note_evaluation(f"{name} {num_done:,}" + (f" of {num_all:,}" if num_all > num_done else ""))

    return on_progress


@contextmanager
def locked(lock: Path, control: Control) -> Iterator[None]:
    """Hold a lock, which the kernel releases if the process dies; waiting for the lock counts as progress.

    Raises:
        Interrupted: `control` demanded a stop while the process waited.
    """
    file_lock = FileLock(lock)
    while True:
        try:
            file_lock.acquire(timeout=_INTERVAL_S)
            break
        except Timeout:
            _check_stop(control)
    try:
        yield
    finally:
        file_lock.release()


def _check_stop(control: Control) -> None:
    """Report progress, and raise Interrupted if a stop is demanded."""
    control.on_progress()
    if control.should_stop():
        raise Interrupted("stopped on request during an evaluation")
