"""Ends a process whose run makes no progress, so that a hanging run does not block a machine for ever."""

import faulthandler
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gmt.removal import remove

FILE = "hang.txt"
START_FILE = "hang-start.txt"  # written by the process that waits until the workers of its run start
_ARM_EVERY_S = 1.0


@contextmanager
def end_on_stall(limit_s: float | None, folder: Path, file_name: str = FILE) -> Iterator[Callable[[], None]]:
    """End this process if the block makes no progress for `limit_s` seconds, and write stack traces into a file.

    faulthandler watches from a thread that needs no GIL, so it also ends a process that hangs inside C code.

    Args:
        limit_s: seconds without progress; None for no limit.
        folder: the folder of the run's record.
        file_name: the name of the file for the stack traces.

    Yields:
        A function to call whenever the run makes progress.
    """
    if limit_s is None:
        yield lambda: None
        return
    path = folder / file_name
    armed = 0.0
    with path.open("w", encoding="utf-8") as file:

        def progress() -> None:
            nonlocal armed
            if time.monotonic() - armed >= min(_ARM_EVERY_S, limit_s / 2):
                armed = time.monotonic()
                faulthandler.dump_traceback_later(limit_s, exit=True, file=file)

        progress()
        try:
            yield progress
        finally:
            faulthandler.cancel_dump_traceback_later()
            remove(path, folder)
