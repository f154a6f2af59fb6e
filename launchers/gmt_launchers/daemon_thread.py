"""Calls a function of Ray in a daemon thread, so that the process can end although the function does not return."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def call_in_daemon_thread(function: Callable[[], T], name: str) -> "Future[T]":
    """Call a function in a daemon thread. At its end the process waits for an executor's threads, but not for this one.

    Args:
        function: the function.
        name: the thread's name, for debugging a stuck process.

    Returns:
        A future of the result or the error. The error may be SystemExit, by which Ray ends a thread.
    """
    future: Future[T] = Future()

    def call_function() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # the thread's boundary: the error is raised again in the thread that waits
            future.set_exception(error)

    threading.Thread(target=call_function, name=name, daemon=True).start()
    return future
