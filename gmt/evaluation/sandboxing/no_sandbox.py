"""Starts a model-written program with limits and a temporary folder, but without a sandbox.

The program has the caller's permissions: it can read and change the caller's files, use the network, and leave behind a
process that started its own session. A program that fails while a child holds its pipes open counts as `timed out`.
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
    """Start the runner in a temporary folder; its process group ends with the block."""
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
        with suppress(OSError):  # the program may have left files that can't be removed
            remove(Path(folder), Path(folder).parent)
