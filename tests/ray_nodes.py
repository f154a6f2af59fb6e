"""A Ray cluster of several real nodes on this machine, made by `ray start` as people make theirs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil


class Nodes:
    """Nodes that can be killed one by one; the head runs no jobs.

    Args:
        folder: for what the nodes write to their terminals.
    """

    def __init__(self, folder: Path, *, head_cpus: int = 0):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        head = (
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={port}",
            f"--num-cpus={head_cpus}",
            "--include-dashboard=false",
        )
        self.started = [self._start(*head)]
        _wait(lambda: _answers(port))

    def add(self, *, num_cpus: int = 1) -> int:
        """Adds a node; returns its number."""
        self.started.append(self._start(f"--address={self.address}", f"--num-cpus={num_cpus}"))
        log = self._folder / f"node-{len(self.started) - 1}.log"
        _wait(lambda: "Ray runtime started" in log.read_text())
        return len(self.started) - 1

    def kill(self, number: int) -> None:
        """SIGKILLs everything that a node is, its raylet first, as a power cut does."""
        parent = psutil.Process(self.started[number].pid)
        for process in sorted(parent.children(recursive=True), key=lambda p: p.name() not in ("raylet", "gcs_server")):
            process.kill()
        parent.kill()
        self.started[number].wait()

    def end(self) -> None:
        """Ends all nodes."""
        for process in reversed(self.started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        ray = Path(sys.executable).with_name("ray")
        log = (self._folder / f"node-{len(getattr(self, 'started', []))}.log").open("wb")
        command = [str(ray), "start", *arguments, "--block", "--disable-usage-stats"]
        env = os.environ | {"RAY_AUTH_MODE": "token"}  # a head has it by itself, a node that joins must be told
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline, "the node did not start"
        time.sleep(0.2)
