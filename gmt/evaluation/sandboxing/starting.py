"""Types and functions that the starts of a model-written program share, with bubblewrap and without a sandbox."""

import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from gmt.errors import MachineFault
from gmt.evaluation.sandboxing import program_runner
from gmt.evaluation.sandboxing.limits import Limits


class NotStarted(MachineFault):
    """The machine could not start a program, so nothing is known about the program."""


class MachineBusy(MachineFault):
    """The machine gave a program too little CPU time to judge it."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A program's first process, and a function that ends it with all its children."""

    process: subprocess.Popen[bytes]
    kill: Callable[[], None]


# Takes the program's end of the channel and the limits; when the block ends, no process of the program remains.
Start = Callable[[socket.socket, Limits], AbstractContextManager[Started]]


def environment(home: str) -> dict[str, str]:
    """Return the environment variables of a program."""
    return {
        "HOME": home,
        "PATH": "/usr/bin:/bin",
        "PYTHONHASHSEED": "0",  # the order of a set must not decide a score
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def runner_command(uid: int, limits: Limits) -> list[str]:
    """Return the command that reads a program from its stdin and runs it as `uid`."""
    text = Path(program_runner.__file__).read_text(encoding="utf-8")
    numbers = (uid, limits.memory_bytes, limits.cpu_time_s, limits.processes, limits.scratch_bytes)
    return [sys.executable, "-s", "-P", "-B", "-X", "utf8", "-c", text, *map(str, numbers)]
