"""Handles Ctrl-C and SIGTERM: the first signal stops a sweep after checkpoints, the second at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def no_lost_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block if Ctrl-C was pressed in it and Python dropped the exception.

    Python drops an exception that is raised in a destructor, and libraries call many while they are imported.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        pressed.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed.is_set():
        raise KeyboardInterrupt


@contextmanager
def stops_in_order(stop: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Within the block, the first signal creates the stop file, and the second raises KeyboardInterrupt.

    Args:
        stop: the file that every worker looks for between steps.
        say: prints a line.
    """
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in the main thread only
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()
        say("stopping: no further run starts, and running ones write a checkpoint; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
