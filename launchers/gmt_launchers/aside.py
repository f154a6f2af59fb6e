"""Calls into Ray from a thread beside the caller's, so that the caller stays free to end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def aside(do: Callable[[], T], name: str) -> "Future[T]":
    """Calls it in a thread that the process does not wait for at its end, as it would for an executor's.

    Args:
        do: what is called.
        name: of the thread, for whoever looks at a stuck process.

    Returns:
        What it returns or raises, be it the SystemExit by which Ray ends a thread: the waiter would else wait for ever.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(do())
        except BaseException as error:  # the thread's boundary: the error is raised again in the thread that waits
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future
