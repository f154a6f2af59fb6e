"""An MlflowView in a process of its own, so that MLflow takes neither time nor memory of the caller.

The process reads requests from a pipe, and ends when the caller's end of the pipe closes, e.g. since the caller was
killed.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from gmt.errors import NoAnswer, UserError
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
_ENDED = "the process that writes to MLflow has ended"


class StoreFault(Exception):
    """The store refused a request; the message is its reason, in one line."""


class ViewInOtherProcess:
    """The methods of an MlflowView, called in another process, which starts now and opens the store.

    A context manager, whose end ends the process. If the process dies, the next call starts another one.

    Every method raises NoAnswer if the store does not answer or the process ends during the call, UserError if the
    settings are wrong, and StoreFault if the store refuses a request. Methods may be called from several threads.

    Args:
        settings: the settings of MLflow.
    """

    def __init__(self, settings: TrackingSettings):
        self._settings = settings
        self._lock = threading.Lock()
        self._num_calls = 0
        self._is_open, self._has_ended = False, False
        self._start()

    def __enter__(self) -> ViewInOtherProcess:
        return self

    def __exit__(self, error: object = None, *_: object) -> None:
        self._has_ended = True
        if not self._is_open:  # it may be making the store's tables: it sees the closed pipe after that
            self._pipe.close()
            return
        if error is not None:  # e.g. Ctrl-C while a store does not answer; the run records have everything
            self._process.kill()
        with self._lock:  # a thread in a call of a killed process gets an error now
            self._pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()

    def wait_until_open(self) -> None:
        """Wait until the store has answered."""
        try:
            is_open = self._call("answers")
        except StoreFault as fault:
            raise NoAnswer(f"tracking.uri must be a store that MLflow can open: {fault}") from fault
        if not is_open:
            raise NoAnswer("MLflow's store has stopped answering")

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
                [sys.executable, "-P", "-c", _CODE, str(theirs.fileno()), json.dumps(paths)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller
            )
        self._pipe = ours
        self._pipe.send(self._settings)

    def _call(self, method: str, *args: object, **values: object) -> Any:
        with self._lock:
            if self._has_ended:
                raise NoAnswer(_ENDED)
            try:
                if self._process.poll() is not None:
                    self._pipe.close()
                    self._start()
                self._num_calls += 1
                self._pipe.send((self._num_calls, method, args, values))
                number, result, error = self._pipe.recv()
                while number != self._num_calls:  # the answer to a call that Ctrl-C has ended
                    number, result, error = self._pipe.recv()
            except (EOFError, OSError) as cause:
                self._process.kill()
                self._process.wait()
                raise NoAnswer(_ENDED) from cause
        if error is not None:
            raise error
        self._is_open = True
        return result


def serve(descriptor: int) -> None:
    """Open a store, and call the methods that a caller asks for, until the caller's end of the pipe is closed.

    Args:
        descriptor: the file descriptor of this process's end of the pipe, from which it first receives the settings.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a job; the caller ends this one
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(descriptor)
    with suppress(EOFError, OSError):  # the caller has ended
        server = _Server(pipe.recv())
        server.open_if(lambda: not _is_hung_up(descriptor))
        threading.Thread(target=_end_after_hang_up, args=(descriptor,), daemon=True).start()
        while True:
            number, method, args, values = pipe.recv()
            pipe.send((number, *server.call(method, args, values)))


def _is_hung_up(descriptor: int, timeout_s: float | None = 0.0) -> bool:
    """Return whether the caller's end of the pipe is closed; wait for that, for ever if `timeout_s` is None."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a closed end is reported without being asked for
    return bool(poll.poll(None if timeout_s is None else 1000 * timeout_s))


def _end_after_hang_up(descriptor: int) -> None:
    """End this process some seconds after its caller, even during a call to a store that does not answer."""
    _is_hung_up(descriptor, None)
    time.sleep(_END_S)
    os._exit(0)


class _Server:
    """An MlflowView that is opened by each call while the store does not answer."""

    def __init__(self, settings: TrackingSettings):
        self._settings = settings
        self._view: MlflowView | None = None
        self._fault: UserError | None = None

    def open_if(self, is_wanted: Callable[[], bool]) -> None:
        """Import MLflow, and open the store if it is still wanted; the first call of `answers` returns a fault."""
        with no_collections():
            import gmt.tracking.mlflow_view  # noqa: F401
        if not is_wanted():
            return
        try:
            self._open()
        except UserError as error:
            self._fault = error

    def call(self, method: str, args: Sequence[Any], values: Mapping[str, Any]) -> tuple[Any, Exception | None]:
        """Return the result of a method and None, or None and the error."""
        fault, self._fault = self._fault, None
        if fault is not None and method == "answers":
            return None, fault
        try:
            return getattr(self._open(), method)(*args, **values), None
        except UserError as error:
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
