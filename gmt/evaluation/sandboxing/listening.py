"""Follows one running program: collects its output, and ends it at the limits of time and memory.

A program's time counts while it is on a core or asleep. It stops while the program waits for a core or a disk, so that
other programs on the machine do not decide its outcome.
"""

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
from gmt.evaluation.sandboxing.usage import proportional_bytes, usage_of

_START_S = 60.0  # for the interpreter to start on a busy machine; the program's time begins after that
_END_S = 5.0  # for pipes to close once everything is killed
_LOOK_EVERY_S = 0.1
_PATIENCE = 10  # times the wall time limit that a program may take if it hardly gets a core
_KEPT_BYTES = 4000
_CHUNK_BYTES = 2**16


@dataclass(kw_only=True)
class Observation:
    """The output, the time and the memory of a program that has ended.

    Args:
        report: the bytes that came over its channel.
        output_bytes: the number of bytes written to stdout and stderr.
        stderr_end: the last bytes written to stderr.
        timed_out: whether its time was over before it ended.
        cpu_s: its CPU time in seconds, if its wall time was over but it hardly got a core; else None.
        out_of_memory: whether its processes together took more memory than the limit.
        exit_code: its exit code, or 128 plus the number of the signal that ended it.
    """

    report: bytes = b""
    output_bytes: int = 0
    stderr_end: bytes = b""
    timed_out: bool = False
    cpu_s: float | None = None
    out_of_memory: bool = False
    exit_code: int = 0


def listen(started: Started, channel: socket.socket, message: bytes, limits: Limits) -> Observation:
    """Send a program its message, and follow it until it ends, reports, or reaches a limit."""
    channel.settimeout(_START_S)
    with suppress(OSError):  # a program that ended before it listened has its reason on stderr
        channel.sendall(message)
    listener = _Listener(started, channel, limits)
    listener.follow()
    return listener.observed


class _Listener:
    def __init__(self, started: Started, channel: socket.socket, limits: Limits):
        self.observed = Observation()
        self._started = started
        self._channel = channel
        self._limits = limits
        self._deadline = time.monotonic() + _START_S
        self._killed = False
        self._started_at: float | None = None
        self._looked_at = time.monotonic()
        self._asleep_s = self._cpu_s = self._cpu_of_start_s = 0.0

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
                for key, _ in selector.select(min(self._left_s(), _LOOK_EVERY_S)):
                    if data := _read(key.fd):
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
        self._wait(process)

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _over(self) -> bool:
        """Return whether nothing more will come; kill a program whose time is over, and let its pipes empty first."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_S and not self._killed:
            self._look(now)
        if self._left_s() > 0:
            return False
        if self._killed:
            return True
        if self._is_held_up(now):
            self._deadline = now + _LOOK_EVERY_S
            return False
        self.observed.timed_out = True
        self._kill()
        return False

    def _look(self, now: float) -> None:
        usage = usage_of(self._started.process.pid)
        if usage.is_asleep:
            self._asleep_s += now - self._looked_at
        self._looked_at, self._cpu_s = now, max(usage.cpu_s - self._cpu_of_start_s, self._cpu_s)
        most = self._limits.memory_bytes
        if usage.memory_bytes > most and proportional_bytes(self._started.process.pid) > most:
            self.observed.out_of_memory = True
            self._kill()

    def _is_held_up(self, now: float) -> bool:
        """Return whether a program past its wall time has used less time of its own; give up after a long time."""
        limit = self._limits.wall_time_s
        if self._started_at is None or self._asleep_s + self._cpu_s >= limit:
            return False
        if now - self._started_at < limit * _PATIENCE:
            return True
        self.observed.cpu_s = self._cpu_s
        return False

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._deadline = time.monotonic() + _END_S
            self._started.kill()

    def _take_stdout(self, data: bytes) -> None:
        self.observed.output_bytes += len(data)
        if self.observed.output_bytes > self._limits.output_bytes:
            self._kill()

    def _take_stderr(self, data: bytes) -> None:
        self.observed.stderr_end = (self.observed.stderr_end + data)[-_KEPT_BYTES:]
        self._take_stdout(data)

    def _take_report(self, data: bytes) -> None:
        self.observed.report += data
        if self.observed.report == STARTED:
            self._started_at = self._looked_at = time.monotonic()
            self._deadline = self._started_at + self._limits.wall_time_s
            self._cpu_of_start_s, self._cpu_s = usage_of(self._started.process.pid).cpu_s, 0.0
        else:
            self._kill()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                code = process.wait(min(self._left_s(), _LOOK_EVERY_S))
                break
            except subprocess.TimeoutExpired:  # the program closed its pipes and went on
                if self._over():
                    raise
        self.observed.exit_code = code if code >= 0 else 128 - code


def _read(file: int) -> bytes:
    try:
        return os.read(file, _CHUNK_BYTES)
    except ConnectionResetError:  # the program ended without reading its token
        return b""
