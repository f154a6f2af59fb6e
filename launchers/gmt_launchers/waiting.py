"""Tells the user what a sweep waits for, since Ray waits silently for cores, GPUs, nodes and processes."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.util.placement_group import placement_group_table, remove_placement_group

from gmt_launchers.ray_internals import groups_of_dead_actors, logs_folder
from gmt_launchers.room import UNITS, Amounts, all_nodes, free_nodes, in_words, num_places

_PATIENCE_S = {"room": 10.0, "process": 60.0}  # a process that starts imports Ray, from a slow disk perhaps
_PRINT_AGAIN_S = 600.0
_POLL_S = 1.0
_JOIN_S = 5.0
_NOT_GRANTED = ("PENDING", "RESCHEDULING")


@dataclass(frozen=True, kw_only=True)
class Reservations:
    """The resources that the runs of this driver reserve.

    Args:
        pending: the resources of each worker of the first run whose reservation waits; empty if none waits.
        num_granted: the number of runs whose reservation Ray has granted.
    """

    pending: Sequence[Amounts]
    num_granted: int


class Waiting:
    """Watches in a separate thread whether any run makes progress, and prints the reason if none does.

    Args:
        say: prints a line.
        is_starting: returns whether there are runs to do and none has begun.
    """

    def __init__(self, say: Callable[[str], None], is_starting: Callable[[], bool]):
        self._say, self._is_starting = say, is_starting
        self._awaited: str | None = None
        self._since = time.monotonic()
        self._printed_at: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._check_repeatedly, name="gmt-waiting", daemon=True)

    @property
    def is_silent(self) -> bool:
        """Whether no run makes progress now."""
        return self._awaited is not None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(_JOIN_S)  # a lost head never answers

    def _check_repeatedly(self) -> None:
        while not self._ended.wait(_POLL_S):
            with contextlib.suppress(ray.exceptions.RayError):  # the thread that waits for the runs raises it
                for group in groups_of_dead_actors():
                    remove_placement_group(group)  # otherwise the run's next attempt would wait for these resources
                self._check()

    def _check(self) -> None:
        now, reserved = time.monotonic(), reservations()
        awaited = self._what_is_awaited(reserved)
        if awaited != self._awaited:
            if self._printed_at is not None and awaited != "room":
                self._say("the sweep continues")
            self._awaited, self._since, self._printed_at = awaited, now, None
        if awaited is None or now - self._since < _PATIENCE_S[awaited]:
            return
        if self._printed_at is None or now - self._printed_at >= _PRINT_AGAIN_S:
            self._printed_at = now
            seconds = now - self._since
            why = _reason(awaited, reserved)
            self._say(f"no run has made progress for {seconds:.0f} s: {why}; Ctrl-C ends the sweep")

    def _what_is_awaited(self, reserved: Reservations) -> str | None:
        if reserved.pending and not reserved.num_granted:
            return "room"
        return "process" if self._is_starting() else None


def reservations() -> Reservations:
    """Return the reservations of this driver's runs."""
    job = ray.get_runtime_context().get_job_id()
    groups = [(group, _workers(group)) for id_, group in placement_group_table().items() if id_.endswith(job)]
    pending = [workers for group, workers in groups if workers and group["state"] in _NOT_GRANTED]
    granted = [workers for group, workers in groups if workers and group["state"] == "CREATED"]
    return Reservations(pending=pending[0] if pending else (), num_granted=len(granted))


def _workers(group: Mapping[str, Any]) -> list[Amounts]:
    """Return the resources of a run's workers; empty for a trial that only waits for them (see ray_tune.py)."""
    shares = [{name: float(b[name]) for name in UNITS if name in b} for b in group["bundles"].values()]
    return [share for share in shares if share]


def _reason(awaited: str, reserved: Reservations) -> str:
    if awaited == "process":
        folder = logs_folder()
        logs = f" (Ray's own logs are in {folder})" if folder is not None else ""
        return f"Ray is still starting the processes of a run{logs}"
    worker, number, nodes = reserved.pending[0], len(reserved.pending), all_nodes()
    if num_places(nodes, worker, at_most=number) < number:
        return f"a run needs {in_words(reserved.pending, list(worker))}, and the cluster has {in_words(nodes)} in all"
    free = in_words(free_nodes(), list(worker))
    return f"a run needs {in_words(reserved.pending, list(worker))}, and the cluster's nodes have {free} free"
