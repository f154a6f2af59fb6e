"""A Ray cluster of two nodes with a dashboard on this machine, made by `ray start` as people make theirs.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.slurm_cluster import free_ports

_LOCAL = ("--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0")
_ANY_PORT = ("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats")


@contextmanager
def ray_cluster(folder: Path) -> Iterator[str]:
    """Starts the nodes, and ends what it started.

    Args:
        folder: for what the nodes say.

    Yields:
        The dashboard's address, which may not answer yet.
    """
    gcs, client, dashboard = free_ports(3)
    own = [tempfile.mkdtemp(prefix="gmt-node-", dir="/tmp") for _ in range(2)]  # sockets want a short path
    head = ("--head", f"--port={gcs}", f"--ray-client-server-port={client}")
    shown = ("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}")
    nodes = [_start(folder / "head.log", *head, *shown, f"--temp-dir={own[0]}")]
    try:
        nodes.append(_start(folder / "worker.log", f"--address=127.0.0.1:{gcs}", f"--temp-dir={own[1]}"))
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        for node in reversed(nodes):
            os.killpg(node.pid, signal.SIGTERM)
        for node in nodes:
            _wait_or_kill(node)
        for path in own:
            shutil.rmtree(path, ignore_errors=True)


def _wait_or_kill(node: "subprocess.Popen[bytes]") -> None:
    try:
        node.wait(15)
    except subprocess.TimeoutExpired:  # its GCS waits for nodes that are gone
        os.killpg(node.pid, signal.SIGKILL)
        node.wait(15)


def _start(log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments, *_LOCAL, *_ANY_PORT]
    environment = os.environ | {"RAY_AUTH_MODE": "token"}  # a head has it by itself, a node that joins must be told
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
