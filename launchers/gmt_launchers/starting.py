"""Starts Ray on this machine in a separate thread, so that the driver can check a sweep meanwhile."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager

from gmt_launchers.cluster import Head


class StartingRay:
    """A Ray that is starting; as a context manager it waits for Ray, and ends it.

    The thread that starts Ray lives as long as Ray: Linux ends Ray's processes with the thread that started them.

    Args:
        connect: makes the block within which Ray runs, see gmt_launchers.cluster.connected.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Head]]):
        self._connect = connect
        self._head: Future[Head] = Future()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="gmt-ray", daemon=True)
        self._thread.start()

    def __enter__(self) -> Head:
        """Return the head once Ray has started.

        Raises:
            UserError: see gmt_launchers.cluster.connected.
        """
        return self._head.result()

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Wait until Ray has started, and end it; a second call does nothing."""
        self._is_over.set()
        self._thread.join()

    def _live(self) -> None:
        try:
            with self._connect() as head:
                self._head.set_result(head)
                self._is_over.wait()
        except BaseException as error:  # the thread's boundary: the error is raised again in the thread that waits
            if self._head.done():
                raise
            self._head.set_exception(error)
