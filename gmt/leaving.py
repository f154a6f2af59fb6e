"""Ends the program, also where a library's exit handler would wait for something that never comes."""

import os
import sys
import threading
from typing import NoReturn

_at_once = threading.Event()


def skip_exit_handlers() -> None:
    """Make `leave` end this process without the exit handlers of libraries."""
    _at_once.set()


def leave(code: int) -> NoReturn:
    """End this process with an exit code."""
    if _at_once.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
