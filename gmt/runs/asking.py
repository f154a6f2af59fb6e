"""Asking a model for long: progress is shown, a stop is heeded, and of processes that want the same one asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gmt.errors import Interrupted
from gmt.records.record import RunRecord
from gmt.training.control import Control

_SHOWN_EVERY_S = 1.0


def shown(name: str, record: RunRecord, control: Control) -> Callable[[int, int], None]:
    """Return what is called with the number of answers that are there, and of all, after each batch.

    Args:
        name: of what is asked.
        record: says so to others, once a second.
        control: told of progress, and asked whether to go on: the call raises Interrupted where not.
    """
    shown_at = 0.0

    def on_progress(num_done: int, num_all: int) -> None:
        nonlocal shown_at
        _go_on(control)
        if time.monotonic() - shown_at >= _SHOWN_EVERY_S:
            shown_at = time.monotonic()
            record.note_asking(f"{name} {num_done:,}" + (f" of {num_all:,}" if num_all > num_done else ""))

    return on_progress


@contextmanager
def alone(lock: Path, control: Control) -> Iterator[None]:
    """Holds a lock, which the kernel takes back from a process that dies; waiting for it is no hang.

    Raises:
        Interrupted: `control` asked for it meanwhile.
    """
    held = FileLock(lock)
    while True:
        try:
            held.acquire(timeout=_SHOWN_EVERY_S)
            break
        except Timeout:
            _go_on(control)
    try:
        yield
    finally:
        held.release()


def _go_on(control: Control) -> None:
    control.on_progress()
    if control.should_stop():
        raise Interrupted("stopped on request while it was evaluated")
