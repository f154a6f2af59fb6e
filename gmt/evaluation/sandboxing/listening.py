"""Follows one running program: what it says, and the end of its time."""

import os
import selectors
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass

from gmt.evaluation.sandboxing.limits import Limits
from gmt.evaluation.sandboxing.program_runner import STARTED
from gmt.evaluation.sandboxing.starting import Started

_START_S = 60.0  # for an interpreter on a busy machine; the program's own time begins behind it
_END_S = 5.0  # for pipes to close once everything is killed
_KEPT_BYTES = 4000
_CHUNK_BYTES = 2**16


@dataclass(kw_only=True)
class Heard:
    """What a program said until its end.

    Args:
        report: what came over its channel.
        output_bytes: written to stdout and stderr.
        stderr_end: the last of it.
        timed_out: its time was over before it ended.
        exit_code: 128 and the number of the signal that ended it.
    """

    report: bytes = b""
    output_bytes: int = 0
    stderr_end: bytes = b""
    timed_out: bool = False
    exit_code: int = 0


def listen(started: Started, channel: socket.socket, message: bytes, limits: Limits) -> Heard:
    """Sends a program its message and follows it to its end, which is also its report, its limit or its time."""
    channel.settimeout(_START_S)
    with suppress(OSError):  # what ended before it listened has its reason on stderr
        channel.sendall(message)
    listener = _Listener(started, channel, limits)
    listener.follow()
    return listener.heard


class _Listener:
    def __init__(self, started: Started, channel: socket.socket, limits: Limits):
        self.heard = Heard()
        self._started = started
        self._channel = channel
        self._limits = limits
        self._deadline = time.monotonic() + _START_S
        self._killed = False

    def follow(self) -> None:
        process = self._started.process
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            for source, take in (
                (process.stdout, self._take_stdout),
                (process.stderr, self._take_stderr),
                (self._channel, self._take_report),
            ):
                selector.register(source, selectors.EVENT_READ, take)
            while selector.get_map() and not self._over():
                for key, _ in selector.select(self._left_s()):
                    if data := _read(key.fd):
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
        self._wait(process)

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _over(self) -> bool:
        """Whether nothing more will come; a program whose time is over is killed first, and its pipes emptied."""
        if self._left_s() > 0:
            return False
        if self._killed:
            return True
        self.heard.timed_out = True
        self._kill()
        return False

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._deadline = time.monotonic() + _END_S
            self._started.kill()

    def _take_stdout(self, data: bytes) -> None:
        self.heard.output_bytes += len(data)
        if self.heard.output_bytes > self._limits.output_bytes:
            self._kill()

    def _take_stderr(self, data: bytes) -> None:
        self.heard.stderr_end = (self.heard.stderr_end + data)[-_KEPT_BYTES:]
        self._take_stdout(data)

    def _take_report(self, data: bytes) -> None:
        self.heard.report += data
        if self.heard.report == STARTED:
            self._deadline = time.monotonic() + self._limits.wall_time_s
        else:
            self._kill()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        try:
            code = process.wait(self._left_s())
        except subprocess.TimeoutExpired:  # it closed its pipes and went on
            self.heard.timed_out = True
            self._kill()
            code = process.wait(_END_S)
        self.heard.exit_code = code if code >= 0 else 128 - code


def _read(file: int) -> bytes:
    try:
        return os.read(file, _CHUNK_BYTES)
    except ConnectionResetError:  # it ended without taking its token
        return b""
