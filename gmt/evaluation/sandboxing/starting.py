"""What the ways to start a model-written program share: with bubblewrap, or without a sandbox."""

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
    """The machine could not start a program; that says nothing about the program."""


class HeldUp(MachineFault):
    """The machine gave a program too little of a core to judge it."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A program's first process, and how to end it with all that it started."""

    process: subprocess.Popen[bytes]
    kill: Callable[[], None]


# Given its end of the channel; on leaving the context nothing of the program is left.
Start = Callable[[socket.socket, Limits], AbstractContextManager[Started]]


def environment(home: str) -> dict[str, str]:
    """All variables that a program sees."""
    return {
        "HOME": home,
        "PATH": "/usr/bin:/bin",
        "PYTHONHASHSEED": "0",  # the order of a set must not decide a score
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def runner_command(uid: int, limits: Limits) -> list[str]:
    """The command that takes a program from its stdin; `uid` is what it becomes."""
    text = Path(program_runner.__file__).read_text(encoding="utf-8")
    numbers = (uid, limits.memory_bytes, limits.cpu_time_s, limits.processes, limits.scratch_bytes)
    return [sys.executable, "-s", "-P", "-B", "-X", "utf8", "-c", text, *map(str, numbers)]
