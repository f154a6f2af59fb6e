"""Watches the records of a sweep: which runs ended, which run and how fast, and the time left."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gmt.records.record import NOWHERE, RunRecord, State
from gmt.studies.estimate import measured_cost
from gmt.studies.plan import Plan, PlannedRun

_POLL_S = 1.0
_ENDS = ("done", "failed", "diverged", "stopped")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A running run: its last logged step, and its pace between the last two; None before there is one."""

    label: str
    attempt: int
    step: int | None
    loss: float | None
    tokens_per_s: float | None
    asking: str | None
    """The present evaluation; None outside evaluations."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A sweep at one moment.

    Args:
        num_waiting: the number of runs that have not begun.
        running: the running runs.
        ended: the number of runs that ended in each state.
        seconds_left: the estimated time left; None before a run is done.
    """

    num_waiting: int
    running: Sequence[Running]
    ended: Mapping[State, int]
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that ended: its state, its number among the ended runs, from 1, and the number of all runs."""

    planned: PlannedRun
    state: State
    number: int
    total: int
    seconds_left: float | None


class Progress(Protocol):
    """Shows people the progress of a sweep."""

    def ended(self, ended: Ended) -> None:
        """Show that a run has ended."""
        ...

    def now(self, snapshot: Snapshot) -> None:
        """Show the present state; called about once a second."""
        ...

    def close(self) -> None:
        """End the display after the sweep."""
        ...


class Tracker(Protocol):
    """Copies records to another store."""

    def note_change(self, planned: PlannedRun, *, final: bool) -> None:
        """Note that a record has changed; `final` says that nobody will resume the run."""
        ...


@contextmanager
def each_second(look: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `look` about once a second in a separate thread."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(_POLL_S):
            look()

    thread = threading.Thread(target=loop, name="gmt-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Watch:
    """Looks at every run of a sweep that has not ended; reads only what changed."""

    def __init__(
        self, plan: Plan, todo: Sequence[PlannedRun], tracker: Tracker | None, progress: Progress, at_once: int
    ):
        self._todo, self._tracker, self._progress, self._at_once = todo, tracker, progress, at_once
        # A record that had failed or been interrupted before the sweep is ignored until its next attempt.
        self._seen = {planned.run.id: _stamp(planned) for planned in todo}
        self._ended: dict[str, State] = {}
        self._pace: dict[str, _Pace] = {}
        left = {planned.run.id for planned in todo}
        others = [planned.record for planned in plan.runs if planned.run.id not in left]
        self._seconds = [seconds for record in others if record.state() == "done" for seconds in _measured(record)]

    def look(self, *, final: bool = False) -> None:
        """Look at all records once.

        Args:
            final: whether the sweep is over, so that runs that are interrupted now stay so.
        """
        running = []
        for planned in self._todo:
            if planned.run.id in self._ended or _stamp(planned) == self._seen[planned.run.id]:
                continue
            state = planned.record.state()
            if self._tracker is not None:
                self._tracker.note_change(planned, final=final)
            # A worker that died may be started again at once: only the last look counts this as the run's end.
            if state in _ENDS or (final and state == "interrupted"):
                self._end(planned, state)
            elif state == "running":
                running.append(self._pace.setdefault(planned.run.id, _Pace(planned)).now())
        self._progress.now(self._snapshot(running))

    def _end(self, planned: PlannedRun, state: State) -> None:
        self._ended[planned.run.id] = state
        self._pace.pop(planned.run.id, None)
        if state == "done":
            self._seconds += _measured(planned.record)
        number, total = len(self._ended), len(self._todo)
        ended = Ended(planned=planned, state=state, number=number, total=total, seconds_left=self._seconds_left())
        self._progress.ended(ended)

    def _snapshot(self, running: Sequence[Running]) -> Snapshot:
        states = list(self._ended.values())
        return Snapshot(
            num_waiting=len(self._todo) - len(states) - len(running),
            running=running,
            ended=Counter(states),
            seconds_left=self._seconds_left(),
        )

    def _seconds_left(self) -> float | None:
        left = len(self._todo) - len(self._ended)
        if not self._seconds:
            return None
        return math.ceil(left / self._at_once) * sum(self._seconds) / len(self._seconds)


class _Pace:
    """The last logged steps of one running run."""

    def __init__(self, planned: PlannedRun):
        self._planned = planned
        self._position = NOWHERE
        self._last: tuple[Mapping[str, Any], ...] = ()

    def now(self) -> Running:
        rows, self._position = self._planned.record.metrics(self._position)
        self._last = (*self._last, *(row for row in rows if "train/loss" in row))[-2:]
        last = self._last[-1] if self._last else {}
        status = self._planned.record.status()
        return Running(
            label=self._planned.point.label,
            attempt=status.get("attempts", 0),
            step=last.get("step"),
            loss=last.get("train/loss"),
            tokens_per_s=self._tokens_per_s(status.get("started_at", 0.0)),
            asking=self._planned.record.asking(),
        )

    def _tokens_per_s(self, since: float) -> float | None:
        """Return the pace between the last two logged steps of this attempt."""
        if len(self._last) < 2:
            return None
        before, last = self._last
        if before["time"] < since:
            return None
        seconds, tokens = last["time"] - before["time"], last["train/tokens"] - before["train/tokens"]
        return tokens / seconds if seconds > 0 and tokens > 0 else None


def _measured(record: RunRecord) -> list[float]:
    return [cost.seconds for cost in measured_cost(record)]


def _stamp(planned: PlannedRun) -> float:
    """Return the time of the last write to the status, which tells whether it changed: each write makes a new file."""
    try:
        return (planned.record.folder / "status.json").stat().st_mtime
    except FileNotFoundError:
        return 0.0
