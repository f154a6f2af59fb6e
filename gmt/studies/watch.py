"""Watches the records of a sweep: counts waiting, running and ended runs, and estimates the time left."""

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
_END_STATES = ("done", "failed", "diverged", "stopped")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A running run.

    Args:
        label: the run's name for people.
        attempt: the number of the attempt, from 1.
        step: the last logged step; None before the first one.
        loss: the training loss of that step; None before the first one.
        tokens_per_s: the pace between the last two logged steps of the attempt; None before the second one.
        evaluation: the present evaluation and its progress, e.g. `gsm8k 128 of 1,319`; None outside evaluations.
    """

    label: str
    attempt: int
    step: int | None
    loss: float | None
    tokens_per_s: float | None
    evaluation: str | None


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
    """A run that ended.

    Args:
        planned: the run.
        state: its state at the end.
        number: its number among the runs that ended, from 1.
        total: the number of runs that the sweep does.
        seconds_left: the estimated time left; None before a run is done.
    """

    planned: PlannedRun
    state: State
    number: int
    total: int
    seconds_left: float | None


class Progress(Protocol):
    """Shows people the progress of a sweep."""

    def show_end(self, ended: Ended) -> None:
        """Show that a run has ended."""
        ...

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Show the present state; called about once a second."""
        ...

    def close(self) -> None:
        """End the display after the sweep."""
        ...


class Tracker(Protocol):
    """Copies records to another store."""

    def note_change(self, planned: PlannedRun, *, final: bool) -> None:
        """Note that a record has changed.

        Args:
            planned: the run.
            final: whether this sweep will not resume the run.
        """
        ...


@contextmanager
def each_second(action: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `action` about once a second in a separate thread."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(_POLL_S):
            action()

    thread = threading.Thread(target=loop, name="gmt-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Watch:
    """Reads the records of a sweep's runs until the runs end.

    A record is skipped until the sweep writes its status for the first time. Each check reads only new lines of a log.

    Args:
        plan: the sweep's plan; its finished runs help to estimate the time left.
        todo: the runs that the sweep does.
        tracker: copies each changed record to MLflow; None without tracking.
        progress: shows the snapshots and the ends of runs.
        at_once: the number of runs that run at once.
    """

    def __init__(
        self, plan: Plan, todo: Sequence[PlannedRun], tracker: Tracker | None, progress: Progress, at_once: int
    ):
        self._todo, self._tracker, self._progress, self._at_once = todo, tracker, progress, at_once
        # A run that failed or was interrupted before the sweep is ignored until its next attempt writes its status.
        self._written_before = {planned.run.id: _status_written_at(planned) for planned in todo}
        self._ended: dict[str, State] = {}
        self._pace: dict[str, _Pace] = {}
        todo_ids = {planned.run.id for planned in todo}
        others = [planned.record for planned in plan.runs if planned.run.id not in todo_ids]
        self._seconds = [seconds for record in others if record.state() == "done" for seconds in _measured(record)]

    def check_records(self, *, final: bool = False) -> None:
        """Read the changed records once, and show the ends of runs and a snapshot.

        Args:
            final: whether the sweep is over, so that it resumes no interrupted run.
        """
        running = []
        for planned in self._todo:
            run_id = planned.run.id
            if run_id in self._ended or _status_written_at(planned) == self._written_before[run_id]:
                continue
            state = planned.record.state()
            if self._tracker is not None:
                self._tracker.note_change(planned, final=final)
            # A run whose worker died may be resumed at once, so only the final check counts an interruption as an end.
            if state in _END_STATES or (final and state == "interrupted"):
                self._end(planned, state)
            elif state == "running":
                running.append(self._pace.setdefault(run_id, _Pace(planned)).read())
        self._progress.show_snapshot(self._snapshot(running))

    def _end(self, planned: PlannedRun, state: State) -> None:
        self._ended[planned.run.id] = state
        self._pace.pop(planned.run.id, None)
        if state == "done":
            self._seconds += _measured(planned.record)
        number, total = len(self._ended), len(self._todo)
        ended = Ended(planned=planned, state=state, number=number, total=total, seconds_left=self._seconds_left())
        self._progress.show_end(ended)

    def _snapshot(self, running: Sequence[Running]) -> Snapshot:
        states = list(self._ended.values())
        return Snapshot(
            num_waiting=len(self._todo) - len(states) - len(running),
            running=running,
            ended=Counter(states),
            seconds_left=self._seconds_left(),
        )

    def _seconds_left(self) -> float | None:
        num_left = len(self._todo) - len(self._ended)
        if not self._seconds:
            return None
        return math.ceil(num_left / self._at_once) * sum(self._seconds) / len(self._seconds)


class _Pace:
    """Reads the last two logged steps of one running run."""

    def __init__(self, planned: PlannedRun):
        self._planned = planned
        self._position = NOWHERE
        self._last: tuple[Mapping[str, Any], ...] = ()

    def read(self) -> Running:
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
            evaluation=self._planned.record.evaluation_progress(),
        )

    def _tokens_per_s(self, since: float) -> float | None:
        """Return the pace between the last two steps that were logged since the attempt began; None without them."""
        if len(self._last) < 2:
            return None
        before, last = self._last
        if before["time"] < since:
            return None
        seconds, tokens = last["time"] - before["time"], last["train/tokens"] - before["train/tokens"]
        return tokens / seconds if seconds > 0 and tokens > 0 else None


def _measured(record: RunRecord) -> list[float]:
    return [cost.seconds for cost in measured_cost(record)]


def _status_written_at(planned: PlannedRun) -> float:
    """Return the time at which the run's status was last written, 0.0 without a status; each write makes a new file."""
    try:
        return (planned.record.folder / "status.json").stat().st_mtime
    except FileNotFoundError:
        return 0.0
