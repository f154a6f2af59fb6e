"""A Ray cluster of several real nodes on this machine, made by `ray start` as people make theirs.

Each node has a temporary folder of its own, as two machines have: in a shared one, the second node unpacks a job's code
over that of the first and takes the driver's working folder away; and Ray tells a job the address of the cluster that
is named in that folder, or else of any Ray that it finds on the machine.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import psutil

from tests.processes import free_ports, name_of, wait_for

_ON_ANY_PORT = ("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0")


class Nodes:
    """Nodes that can be killed one by one; the head is the first.

    Args:
        folder: for what the nodes write to their terminals.
        head_cpus: cores for jobs on the head.
        with_dashboard: serves Ray Jobs at `dashboard`, which may not answer yet.
    """

    def __init__(self, folder: Path, *, head_cpus: int = 0, with_dashboard: bool = False):
        port, client, dashboard = free_ports(3)
        self.address, self.dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        self.started: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._own: list[str] = []
        shown = f"--include-dashboard={str(with_dashboard).lower()}", f"--dashboard-port={dashboard}"
        # Where grpc is there, Ray starts its client's server too, and at a port of its own choice that may be taken.
        ports = [f"--port={port}", *([f"--ray-client-server-port={client}"] if find_spec("grpc") else [])]
        self._start("--head", *ports, f"--num-cpus={head_cpus}", *shown)

    def add(self, *, num_cpus: int = 1, under: Sequence[str] = (), **env: str) -> int:
        """Adds a node; returns its number.

        Args:
            num_cpus: for jobs.
            under: a command that starts another, such as `unshare`.
            env: of the node.
        """
        return self._start(f"--address={self.address}", f"--num-cpus={num_cpus}", under=under, env=env)

    def kill(self, number: int) -> None:
        """SIGKILLs everything that a node is, its raylet first, as a power cut does."""
        parent = psutil.Process(self.started[number].pid)
        for process in sorted(
            parent.children(recursive=True), key=lambda p: name_of(p) not in ("raylet", "gcs_server")
        ):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        parent.kill()
        self.started[number].wait()

    def end(self) -> None:
        """End all nodes. If one has ended already, kill the others, since the head would wait for the lost node."""
        running = [number for number, process in enumerate(self.started) if process.poll() is None]
        if len(running) < len(self.started):
            for number in reversed(running):
                self.kill(number)
        for number in reversed(running):
            if self.started[number].poll() is None:
                os.killpg(self.started[number].pid, signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)
        for path in self._own:
            shutil.rmtree(path, ignore_errors=True)

    def _start(self, *arguments: str, under: Sequence[str] = (), env: Mapping[str, str] = MappingProxyType({})) -> int:
        number = len(self.started)
        self._own.append(tempfile.mkdtemp(prefix="gmt-node-", dir="/tmp"))  # sockets want a short path
        where = ("--node-ip-address=127.0.0.1", "--num-gpus=0", f"--temp-dir={self._own[-1]}", *_ON_ANY_PORT)
        scripts = Path(sys.executable).parent
        command = [*under, str(scripts / "ray"), "start", *arguments, *where, "--block", "--disable-usage-stats"]
        # A head has the mode by itself, a node that joins must be told.
        path = os.pathsep.join([str(scripts), os.environ["PATH"]])  # a job's `python` is the node's
        whole = os.environ | {"RAY_AUTH_MODE": "token", "PATH": path} | dict(env)
        log = self._folder / f"node-{number}.log"

        def start() -> subprocess.Popen[bytes]:
            with log.open("wb") as file:
                return subprocess.Popen(command, env=whole, stdout=file, stderr=file, start_new_session=True)

        def has_ended() -> bool:
            return self.started[number].poll() is not None

        self.started.append(start())
        try:
            wait_for(lambda: "Ray runtime started" in log.read_text() or has_ended(), 300)
            while has_ended() and "Deadline Exceeded" in log.read_text():  # too busy a machine for Ray's own patience
                self.started[number] = start()
                wait_for(lambda: "Ray runtime started" in log.read_text() or has_ended(), 300)
            assert not has_ended(), "it ended"
        except AssertionError as error:
            self.end()
            raise AssertionError(f"a node of Ray did not start ({error}): {log.read_text()[-2000:]}") from error
        return number
