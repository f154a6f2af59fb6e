"""Imports the libraries of a training in a thread of a worker, while the worker waits for its first job."""

from concurrent.futures import Future

from gmt.garbage import no_collections
from gmt.runs.hermetic import remove_variables
from gmt_launchers.daemon_thread import call_in_daemon_thread

_imports: "Future[None] | None" = None


def begin() -> None:
    """Begin to import the libraries."""
    global _imports
    _imports = call_in_daemon_thread(_import_libraries, "gmt-imports")


def wait() -> None:
    """Wait until the imports have ended, if they were begun, since imports in two threads could wait for each other.

    Raises:
        ImportError: a library can't be imported; or another error that its import raised.
    """
    if _imports is not None:
        _imports.result()


def _import_libraries() -> None:
    remove_variables()  # variables that this worker's node sets; torch is not imported yet
    with no_collections():
        import gmt.runs.execute  # noqa: F401
