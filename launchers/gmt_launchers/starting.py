"""Starts Ray on this machine, and workers, while the driver checks the runs that they will do."""

import contextlib
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path

from gmt_launchers.aside import aside
from gmt_launchers.cluster import Head
from gmt_launchers.held import Gate, Held

_LOOK_EVERY_S = 0.05

Do = Callable[[Head, Held], None]


class StartingRuns:
    """Runs on a Ray that starts on this machine, whose workers wait at a gate until `finish` is called.

    One thread starts Ray, does the runs and ends Ray, since Linux ends Ray's processes with the thread that started
    them. It starts at once.

    Args:
        connect: makes the block within which Ray runs, see gmt_launchers.cluster.connected.
        num_waiting: how many workers may start before `finish` is called.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Head]], *, num_waiting: int):
        self._connect = connect
        self._folder = tempfile.TemporaryDirectory(prefix="gmt-gate-")
        self._held = Held(gate=Gate(Path(self._folder.name)), num_waiting=num_waiting)
        self._do: Future[Do | None] = Future()
        self._result = aside(self._live, "gmt-ray")

    def begin(self, do: Do) -> None:
        """Wait until Ray has started and the first workers are starting; an error is raised by `finish` only.

        The caller waits because two busy threads of one Python process take longer than one after the other.

        Args:
            do: does the runs, e.g. gmt_launchers.planned_runs.start_runs.
        """
        self._do.set_result(do)
        while not self._held.handed_out.wait(_LOOK_EVERY_S) and not self._result.done():
            pass

    def finish(self) -> None:
        """Let the runs begin, and wait until they are over.

        Raises:
            UserError: Ray can't be started, or a run fits on no node; no run has begun.
            RunFailed: see gmt_launchers.ray_tune.run_jobs.
        """
        self._held.gate.open()
        self._result.result()

    def end(self) -> None:
        """End the runs and Ray, and wait for their end; a second call does nothing."""
        self._held.over.set()
        if not self._do.done():
            self._do.set_result(None)
        with contextlib.suppress(Exception):  # `finish` raises it
            self._result.result()
        self._folder.cleanup()

    def _live(self) -> None:
        with self._connect() as head:
            do = self._do.result()
            if do is not None and not self._held.over.is_set():
                do(head, self._held)
