"""Mirrors run records to MLflow in a separate thread, so that nothing waits for a slow or dead store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gmt.errors import NoAnswer
from gmt.records.record import RunRecord
from gmt.tracking.reasons import reason

Say = Callable[[str], None]

_POLL_S = 1.0
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0
_LAST_TRIES = 2


@dataclass(frozen=True, kw_only=True)
class MirroredRun:
    """A run record with its name and tags in MLflow.

    Args:
        record: the run's record.
        name: the run's name in MLflow.
        tags: tags to filter by.
    """

    record: RunRecord
    name: str
    tags: Mapping[str, str]


class View(Protocol):
    """Writes records to a store: an MlflowView, or a ViewInOtherProcess, which calls one in another process."""

    def sync(self, record: RunRecord, *, name: str, parent: str | None, tags: Mapping[str, str], final: bool) -> bool:
        """Write a record to the store; return False, without writing, if another process mirrors it."""
        ...

    def answers(self) -> bool:
        """Return whether the store answers a short request."""
        ...

    def close(self) -> None:
        """Let other processes mirror the records that this one has mirrored."""
        ...


@dataclass(frozen=True, kw_only=True)
class OpenStore:
    """A store that has answered.

    Args:
        view: the view of the store.
        parent: the MLflow id of the sweep's parent run, or None.
    """

    view: View
    parent: str | None = None


class Mirror:
    """Mirrors records to MLflow; a context manager, whose end waits until MLflow is up to date or does not answer.

    Args:
        open_store: opens the store; called again until the store answers.
        say: prints a line.
        remedy: a command that brings MLflow up to date later.
    """

    def __init__(self, open_store: Callable[[], OpenStore], say: Say, remedy: str):
        self._open_store, self._say, self._remedy = open_store, say, remedy
        self.store: OpenStore | None = None
        self._pending: dict[str, tuple[MirroredRun, bool]] = {}
        self._warned: set[str] = set()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._write_repeatedly, name="gmt-mlflow", daemon=True)

    def open(self) -> OpenStore:
        """Return the store; open it if needed.

        Raises:
            UserError: the store does not answer.
        """
        if self.store is None:
            self.store = self._open_store()
        return self.store

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for attempt in range(_LAST_TRIES):
            self.write_changes()
            if not self._pending:
                break
            if attempt + 1 < _LAST_TRIES:
                threading.Event().wait(_FIRST_PAUSE_S)
        if self._pending:
            behind = f"{len(self._pending)} run{'s' if len(self._pending) > 1 else ''}"
            self._say(f"warning: MLflow lacks values of {behind}; the records have them, `{self._remedy}` writes them")
        if self.store is not None:
            self.store.view.close()

    def note_change(self, run: MirroredRun, *, final: bool) -> None:
        """Note that a run's record has changed; return at once.

        Args:
            run: the run.
            final: whether nobody will resume the run.
        """
        with self._lock:
            self._pending[run.record.id] = (run, final)

    def write_changes(self) -> bool:
        """Write changed records, and return whether the store answered.

        The next call writes the records that this one could not write.
        """
        with self._lock:
            changed, self._pending = self._pending, {}
        remaining = dict(changed)
        try:
            for id_, (run, final) in changed.items():
                try:
                    store = self.open()
                    is_ours = store.view.sync(
                        run.record, name=run.name, parent=store.parent, tags=run.tags, final=final
                    )
                    # Another process that mirrors the run may leave it unwritten, if the run has ended meanwhile.
                    if is_ours or run.record.state() == "running":
                        del remaining[id_]
                except Exception as error:  # third-party code and a server; an error of MLflow must not end the runs
                    if self.store is None or isinstance(error, NoAnswer) or not self.store.view.answers():
                        self._warn_once("", f"MLflow does not answer ({reason(error)})")
                        return False
                    self._warn_once(id_, f"MLflow refuses the values of {run.name} ({reason(error)})")
            self._warned.discard("")
            return True
        finally:
            with self._lock:
                self._pending = remaining | self._pending

    def _write_repeatedly(self) -> None:
        pause = _POLL_S
        while not self._stop.wait(pause):
            pause = _POLL_S if self.write_changes() else min(max(2 * pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _warn_once(self, subject: str, fault: str) -> None:
        if subject not in self._warned:
            self._say(f"warning: {fault}; the run records have everything")
        self._warned.add(subject)
