"""Starts a model-written program with the caller's own rights: limits, a bare environment and a folder, and no walls.

A program can read and change whatever its caller can, use the network, and leave behind a process that went into a
session of its own. One that fails while a child of it holds its pipes is `timed out`.
"""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gmt.evaluation.sandboxing.limits import Limits
from gmt.evaluation.sandboxing.starting import Started, environment, runner_command
from gmt.removal import remove


@contextmanager
def start(channel: socket.socket, limits: Limits) -> Iterator[Started]:
    """Starts the runner in a temporary folder; its process group ends with the context."""
    folder = tempfile.mkdtemp(prefix="gmt-answer-")
    try:
        with channel:
            process = subprocess.Popen(
                runner_command(os.getuid(), limits),
                stdin=channel.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=environment(folder),
                start_new_session=True,
            )

        def kill() -> None:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses for a group of zombies
                os.killpg(process.pid, signal.SIGKILL)

        with process:
            try:
                yield Started(process=process, kill=kill)
            finally:
                kill()
    finally:
        with suppress(OSError):  # the program may have left what can't be removed
            remove(Path(folder), Path(folder).parent)
