"""Calls Ray from a separate thread, so that the caller can end although Ray does not return."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def aside(do: Callable[[], T], name: str) -> "Future[T]":
    """Call a function in a daemon thread, for which, unlike an executor's, the process does not wait at its end.

    Args:
        do: the function.
        name: the thread's name, for debugging a stuck process.

    Returns:
        A future of the result. It also holds SystemExit, by which Ray ends a thread, so that nobody waits for ever.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(do())
        except BaseException as error:  # the thread's boundary: the error is raised again in the thread that waits
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future
