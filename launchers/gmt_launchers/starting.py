"""Starts Ray and workers on this machine; the first worker checks all runs before any of them begins."""

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from pathlib import Path

from gmt.terminal import say
from gmt_launchers.cluster import Head
from gmt_launchers.daemon_thread import call_in_daemon_thread
from gmt_launchers.held import Gate, HeldJobs

_POLL_S = 0.05
_SAY_EVERY_S = 15.0

DoRuns = Callable[[Head, HeldJobs], None]


class StartingRuns:
    """Runs on a Ray that starts on this machine; the runs' workers wait at a gate until `finish` is called.

    The constructor starts a thread, which starts Ray, does the runs and ends Ray. A single thread does all three, since
    Linux ends Ray's processes when the thread ends that started them.

    Args:
        connect: returns a context manager within which Ray runs, see gmt_launchers.cluster.connected.
        num_waiting: the number of workers that may start before `finish` is called.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Head]], num_waiting: int):
        self._connect = connect
        self._folder = tempfile.TemporaryDirectory(prefix="gmt-gate-", ignore_cleanup_errors=True)
        self._held = HeldJobs(gate=Gate(Path(self._folder.name)), num_waiting=num_waiting)
        self._is_ray_up = threading.Event()
        self._do_runs: Future[DoRuns | None] = Future()
        self._result = call_in_daemon_thread(self._run_ray, "gmt-ray")

    def wait_for_ray(self) -> None:
        """Wait until Ray has started, or could not start; `finish` raises the error of a failed start."""
        while not self._is_ray_up.wait(_POLL_S) and not self._result.done():
            pass

    def begin(self, do_runs: DoRuns) -> None:
        """Wait until the first workers are starting; `finish` raises the error of a failed start.

        The caller waits because two threads that compute at the same time in one Python process take longer than one
        after the other.

        Args:
            do_runs: does the runs, e.g. gmt_launchers.planned_runs.start_runs.
        """
        self._do_runs.set_result(do_runs)
        while not self._held.are_handed_out.wait(_POLL_S) and not self._result.done():
            pass

    def faults(self, num_runs: int) -> Sequence[str] | None:
        """Wait until a worker has checked all runs; meanwhile another worker may start, on the driver's core.

        A line tells every 15 s how many of the `num_runs` runs are checked, since data may be downloaded meanwhile.

        Returns:
            A sentence for each fault; None if no worker can check the runs, so that the caller has to.

        Raises:
            UserError: Ray can't be started, or a run fits on no node.
        """
        self._held.driver_waits.set()
        said_at = time.monotonic()
        while (faults := self._held.gate.faults()) is None:
            if self._result.done():
                self._result.result()
                return None
            if self._held.no_check.done() and (faults := self._held.gate.faults()) is None:
                say(f"checking the runs in this process ({self._held.no_check.result()})")
                return None
            if time.monotonic() - said_at >= _SAY_EVERY_S:
                said_at = time.monotonic()
                say(f"the checks go on: the worker has checked {self._held.gate.num_checked()} of {num_runs} runs")
            time.sleep(_POLL_S)
        return faults

    def finish(self) -> None:
        """Let the runs begin, and wait until all have ended.

        Raises:
            UserError: Ray can't be started, or a run fits on no node; no run has begun.
            RunFailed: see gmt_launchers.ray_tune.run_jobs.
        """
        self._held.gate.let_jobs_begin()
        self._result.result()

    def end(self) -> None:
        """End the runs and Ray, and wait until both have ended; a second call does nothing."""
        self._held.must_end.set()
        if not self._do_runs.done():
            self._do_runs.set_result(None)
        wait([self._result])  # raises no error of the runs; `finish` does
        self._folder.cleanup()

    def _run_ray(self) -> None:
        with self._connect() as head:
            self._is_ray_up.set()
            do_runs = self._do_runs.result()
            if do_runs is not None and not self._held.must_end.is_set():
                do_runs(head, self._held)
