"""Keeps MLflow level with run records in a thread of its own: whatever the store does, nobody waits for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track

from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.tracking.mlflow_view import STORE_ERRORS, MlflowView, reason

Say = Callable[[str], None]

_POLL_S = 1.0
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0
_LAST_TRIES = 2


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """A record as MLflow shows it.

    Args:
        record: of the run.
        name: shown as the run's name.
        tags: to filter by.
    """

    record: RunRecord
    name: str
    tags: Mapping[str, str]


def write(view: MlflowView, runs: Sequence[Mirrored], parent: str | None) -> list[str]:
    """Brings MLflow level with records that nobody follows, with a progress bar.

    Args:
        view: of the store.
        runs: to be written.
        parent: the MLflow id of the sweep's parent run, or None.

    Returns:
        A clause for each run of which MLflow still lacks something.

    Raises:
        UserError: the store stopped answering.
    """
    lacking = []
    for each in track(runs, "MLflow", disable=not sys.stderr.isatty(), console=Console(stderr=True)):
        try:
            if not view.sync(each.record, name=each.name, parent=parent, tags=each.tags, final=True):
                lacking.append(f"{each.name} is followed by another process")
        except STORE_ERRORS as error:  # of one run; the others are written
            if not view.answers():
                raise UserError(f"MLflow stopped answering at {each.name} ({reason(error)}); sync again") from error
            lacking.append(f"{each.name} is not taken ({reason(error)})")
        finally:
            view.release(each.record)
    return lacking


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A store that has answered.

    Args:
        view: of the store.
        parent: the MLflow id of the sweep's parent run, or None.
    """

    view: MlflowView
    parent: str | None = None


class Mirror:
    """Follows records; as a context manager it begins a thread, and ends it when MLflow is level or doesn't answer.

    Args:
        opening: opens the store; asked again until it answers.
        say: prints a line.
        remedy: a command that brings MLflow level later.
    """

    def __init__(self, opening: Callable[[], Opened], say: Say, remedy: str):
        self._opening, self._say, self._remedy = opening, say, remedy
        self.opened: Opened | None = None
        self._pending: dict[str, tuple[Mirrored, bool]] = {}
        self._told: set[str] = set()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="gmt-mlflow", daemon=True)

    def open(self) -> Opened:
        """The store, opened if it isn't.

        Raises:
            UserError: it doesn't answer.
        """
        if self.opened is None:
            self.opened = self._opening()
        return self.opened

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for number in range(_LAST_TRIES):
            self.level()
            if not self._pending:
                break
            if number + 1 < _LAST_TRIES:
                threading.Event().wait(_FIRST_PAUSE_S)
        if self._pending:
            behind = f"{len(self._pending)} run{'s' if len(self._pending) > 1 else ''}"
            self._say(
                f"warning: MLflow lacks values of {behind}; the records hold them, `{self._remedy}` brings it level"
            )
        if self.opened is not None:
            self.opened.view.close()

    def look(self, mirrored: Mirrored, *, final: bool) -> None:
        """A record has changed; after `final` nobody will go on with the run. Returns at once."""
        with self._lock:
            self._pending[mirrored.record.id] = (mirrored, final)

    def level(self) -> bool:
        """Writes what has changed; False if the store doesn't answer, and what is left waits for the next call."""
        with self._lock:
            todo, self._pending = self._pending, {}
        kept = dict(todo)
        try:
            for id_, (mirrored, final) in todo.items():
                try:
                    to = self.open()
                    is_ours = to.view.sync(
                        mirrored.record, name=mirrored.name, parent=to.parent, tags=mirrored.tags, final=final
                    )
                    if is_ours or mirrored.record.state() == "running":  # another process may leave one that is over
                        del kept[id_]
                except Exception as error:  # third-party code and a server; an error of MLflow must not end the runs
                    if self.opened is None or not self.opened.view.answers():
                        self._tell("", f"MLflow does not answer ({reason(error)})")
                        return False
                    self._tell(id_, f"MLflow does not take the values of {mirrored.name} ({reason(error)})")
            self._told.discard("")
            return True
        finally:
            with self._lock:
                self._pending = kept | self._pending

    def _follow(self) -> None:
        pause = _POLL_S
        while not self._stop.wait(pause):
            pause = _POLL_S if self.level() else min(max(2 * pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _tell(self, what: str, fault: str) -> None:
        if what not in self._told:
            self._say(f"warning: {fault}; the run records hold everything")
        self._told.add(what)
