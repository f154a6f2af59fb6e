"""Imports the libraries of a training in a thread of a worker, while the worker waits for its first job."""

import threading

from gmt.garbage import no_collections
from gmt.runs.hermetic import take_out


def _import_libraries() -> None:
    take_out()  # variables that this worker's node sets; torch is not imported yet
    with no_collections():
        import gmt.runs.execute  # noqa: F401


_thread = threading.Thread(target=_import_libraries, name="gmt-imports", daemon=True)


def begin() -> None:
    """Begin to import the libraries."""
    _thread.start()


def wait() -> None:
    """Wait until the imports have ended, if they were begun: imports in two threads could wait for each other."""
    if _thread.ident is not None:
        _thread.join()
