"""Handles Ctrl-C and SIGTERM: the first signal stops a sweep after checkpoints, the second at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def no_lost_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C and SIGTERM within the block, and again at its end if Python dropped the error.

    Python drops an exception that is raised in a destructor, and imports of libraries call many destructors. A signal
    that has another handler already, or is ignored (nohup), keeps its handler.
    """
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in the main thread only
        yield
        return
    defaults: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    replaced = [number for number, handler in defaults.items() if signal.getsignal(number) == handler]
    received = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        received.set()
        raise KeyboardInterrupt

    for number in replaced:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, defaults[number])
    if received.is_set():
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
