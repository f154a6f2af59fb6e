"""Follows one running program: collects its output, and ends it at the limits of time and memory.

Time counts toward the limit while the program computes or sleeps, but not while it waits for a core or a disk, so that
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
_POLL_INTERVAL_S = 0.1
_MAX_SLOWDOWN = 10  # a program that waits for a core or a disk is ended after this many times its wall time limit
_STDERR_END_BYTES = 4000
_CHUNK_BYTES = 2**16


@dataclass(kw_only=True)
class Observation:
    """The output, the time and the memory of a program that has ended.

    Args:
        report: the bytes that it sent over its channel.
        output_bytes: the number of bytes written to stdout and stderr.
        stderr_end: the last bytes written to stderr.
        timed_out: whether it was ended because its time was over.
        cpu_s: its CPU time in seconds if it was ended because it waited too long for a core or a disk; else None.
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
    with suppress(OSError):  # the program has ended already; its stderr has the reason
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
        self._measured_at = time.monotonic()
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
            while selector.get_map() and not self._is_finished():
                for key, _ in selector.select(min(self._remaining_s(), _POLL_INTERVAL_S)):
                    if data := _read(key.fd):
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
        self._wait(process)

    def _remaining_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _is_finished(self) -> bool:
        """Return whether to stop reading; at the time limit, kill the program and read on until its pipes close."""
        now = time.monotonic()
        if now - self._measured_at >= _POLL_INTERVAL_S and not self._killed:
            self._measure_usage(now)
        if self._remaining_s() > 0:
            return False
        if self._killed:
            return True
        if self._may_continue(now):
            self._deadline = now + _POLL_INTERVAL_S
            return False
        self.observed.timed_out = True
        self._kill()
        return False

    def _measure_usage(self, now: float) -> None:
        """Measure the program's time and memory; kill it if it takes more memory than the limit."""
        usage = usage_of(self._started.process.pid)
        if usage.is_asleep:
            self._asleep_s += now - self._measured_at
        self._measured_at, self._cpu_s = now, max(usage.cpu_s - self._cpu_of_start_s, self._cpu_s)
        max_bytes = self._limits.memory_bytes
        if usage.memory_bytes > max_bytes and proportional_bytes(self._started.process.pid) > max_bytes:
            self.observed.out_of_memory = True
            self._kill()

    def _may_continue(self, now: float) -> bool:
        """Return whether a program past its wall time limit may continue, since it waited for a core or a disk.

        Note its CPU time if it may not, although it computed and slept for less than the limit.
        """
        limit = self._limits.wall_time_s
        if self._started_at is None or self._asleep_s + self._cpu_s >= limit:
            return False
        if now - self._started_at < limit * _MAX_SLOWDOWN:
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
        self.observed.stderr_end = (self.observed.stderr_end + data)[-_STDERR_END_BYTES:]
        self._take_stdout(data)

    def _take_report(self, data: bytes) -> None:
        self.observed.report += data
        if self.observed.report == STARTED:
            self._started_at = self._measured_at = time.monotonic()
            self._deadline = self._started_at + self._limits.wall_time_s
            self._cpu_of_start_s, self._cpu_s = usage_of(self._started.process.pid).cpu_s, 0.0
        else:
            self._kill()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                code = process.wait(min(self._remaining_s(), _POLL_INTERVAL_S))
                break
            except subprocess.TimeoutExpired:  # the program closed its pipes and went on
                if self._is_finished():
                    raise
        self.observed.exit_code = code if code >= 0 else 128 - code


def _read(file: int) -> bytes:
    try:
        return os.read(file, _CHUNK_BYTES)
    except ConnectionResetError:  # the program ended without reading its token
        return b""
