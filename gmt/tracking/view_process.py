"""An MlflowView in a process of its own, so that MLflow takes neither time nor memory of the caller.

The process reads requests from a pipe. So it ends with its caller, also if that is killed.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from gmt.errors import NoAnswer
from gmt.garbage import no_collections
from gmt.records.record import RunRecord
from gmt.tracking.reasons import reason
from gmt.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from gmt.tracking.mlflow_view import MlflowView

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from gmt.tracking.view_process import serve; serve(int(sys.argv[1]))"
)
_END_S = 5.0


class StoreFault(Exception):
    """A store did not do what was asked; the message is its reason, in one line."""


class ViewInProcess:
    """The methods of an MlflowView, called in another process, which starts now and opens the store.

    A context manager, whose end ends the process. If the process dies, the next call starts another one.

    Every method raises NoAnswer if the store does not answer or the process ends during the call, and StoreFault if the
    store refuses a request. Methods may be called from several threads.

    Args:
        settings: the settings of MLflow.
    """

    def __init__(self, settings: TrackingSettings):
        self._settings = settings
        self._lock = threading.Lock()
        self._num_calls = 0
        self._start()

    def __enter__(self) -> ViewInProcess:
        return self

    def __exit__(self, error: object = None, *_: object) -> None:
        self._pipe.close()
        try:
            self._process.wait(_END_S if error is None else 0)  # after Ctrl-C it may still be importing
        except subprocess.TimeoutExpired:  # it waits for a store; the run records have everything
            self._process.kill()
            self._process.wait()

    def wait(self) -> None:
        """Wait until the store has answered."""
        self._call("answers")

    def open_parent(self, name: str, identity: str, description: str, tags: Mapping[str, str]) -> str:
        """See MlflowView."""
        return str(self._call("open_parent", name, identity, description, tags))

    def close_parent(self, parent: str, *, failed: bool, metrics: Mapping[str, float], description: str) -> None:
        """See MlflowView."""
        self._call("close_parent", parent, failed=failed, metrics=metrics, description=description)

    def prepare(self, tags: Sequence[str], note: str) -> None:
        """See MlflowView."""
        self._call("prepare", tags, note)

    def pages(self, identity: str) -> tuple[str, str]:
        """See MlflowView."""
        runs, parent = self._call("pages", identity)
        return str(runs), str(parent)

    def description(self, identity: str) -> str:
        """See MlflowView."""
        return str(self._call("description", identity))

    def sync(self, record: RunRecord, *, name: str, parent: str | None, tags: Mapping[str, str], final: bool) -> bool:
        """See MlflowView."""
        return bool(self._call("sync", record, name=name, parent=parent, tags=tags, final=final))

    def answers(self) -> bool:
        """Return whether the store answers a short request."""
        try:
            return bool(self._call("answers"))
        except (NoAnswer, StoreFault):
            return False

    def close(self) -> None:
        """See MlflowView; the end of the process has the same effect."""
        if self._process.poll() is None:
            with suppress(NoAnswer, StoreFault):
                self._call("close")

    def _start(self) -> None:
        ours, theirs = Pipe()
        paths = [os.path.abspath(path) for path in sys.path if isinstance(path, str)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(theirs.fileno()), json.dumps(paths)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller
            )
        self._pipe = ours
        self._pipe.send(self._settings)

    def _call(self, method: str, *args: object, **values: object) -> Any:
        with self._lock:
            if self._process.poll() is not None:
                self._pipe.close()
                self._start()
            self._num_calls += 1
            try:
                self._pipe.send((self._num_calls, method, args, values))
                number, result, error = self._pipe.recv()
                while number != self._num_calls:  # the answer to a call that Ctrl-C has ended
                    number, result, error = self._pipe.recv()
            except (EOFError, OSError) as cause:
                self._process.kill()
                self._process.wait()
                raise NoAnswer("the process that writes to MLflow has ended") from cause
        if error is not None:
            raise error
        return result


def serve(descriptor: int) -> None:
    """Open a store, and call the methods that a caller asks for, until the caller's end of the pipe is closed.

    Args:
        descriptor: the file descriptor of this process's end of the pipe, from which it first receives the settings.
    """
    pipe = Connection(descriptor)
    with suppress(EOFError, OSError):  # the caller has ended
        store = _Store(pipe.recv())
        while True:
            number, method, args, values = pipe.recv()
            pipe.send((number, *store.call(method, args, values)))


class _Store:
    """An MlflowView that is opened at once, and again by each call while the store does not answer."""

    def __init__(self, settings: TrackingSettings):
        self._settings = settings
        self._view: MlflowView | None = None
        self._fault: Exception | None = None
        _, self._fault = self.call("answers", (), {})  # the first call of the caller gets the fault

    def call(self, method: str, args: Sequence[Any], values: Mapping[str, Any]) -> tuple[Any, Exception | None]:
        """Return the result of a method and None, or None and the error."""
        fault, self._fault = self._fault, None
        if fault is not None:
            return None, fault
        try:
            return getattr(self._open(), method)(*args, **values), None
        except NoAnswer as error:
            return None, error
        except Exception as error:  # third-party code; the caller decides what its faults mean
            return None, StoreFault(reason(error))

    def _open(self) -> MlflowView:
        if self._view is None:
            with no_collections():
                from gmt.tracking.mlflow_view import MlflowView

                self._view = MlflowView(self._settings)
            gc.freeze()  # collections need not look at the objects of the imported modules
        return self._view
