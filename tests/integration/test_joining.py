"""Joining a cluster that can't do the work: one sentence, exit code 2, and nothing was started."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CONF, ROOT, Gmt
from tests.processes import free_ports
from tests.ray_nodes import Nodes

SWEEP = ("sweep", "study=tiny", "tracking=none", "--config-dir", str(CONF))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head whose node can do the work."""
    made = Nodes(tmp_path_factory.mktemp("nodes"), head_cpus=1)
    yield made
    made.end()


def refused(gmt: Gmt, tmp_path: Path, *arguments: str, says: str = "") -> str:
    """The sentence; before it `says` was printed."""
    done = gmt(*SWEEP, *arguments)
    assert says in done.stdout
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.glob("gmt-results/runs/*/status.json"))
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def on(nodes: Nodes) -> str:
    return f"hydra.launcher.address={nodes.address}"


def test_an_address_that_nothing_answers_at(gmt: Gmt, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    sentence = refused(gmt, tmp_path, f"hydra.launcher.address=127.0.0.1:{port}")
    assert f"hydra.launcher.address must be a Ray cluster that answers, got '127.0.0.1:{port}'" in sentence


def test_an_address_that_is_none(gmt: Gmt, tmp_path: Path) -> None:
    assert "must be null, auto or HOST:PORT, got 'cluster'" in refused(gmt, tmp_path, "hydra.launcher.address=cluster")


def test_another_token(gmt: Gmt, tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "token"
    other.write_text(secrets.token_hex(32))
    other.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    assert f"the cluster at {nodes.address} refuses the token" in refused(gmt, tmp_path, on(nodes))


@pytest.mark.parametrize(
    "setting",
    [
        "resources.gpus=1",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("resources.cpus=64", "resources.memory_gb=100000")),
    ],
)
def test_a_run_that_fits_on_no_node(gmt: Gmt, tmp_path: Path, nodes: Nodes, setting: str) -> None:
    says = "the cluster's nodes have 0 GPUs now: runs compute on the CPU (resources.gpus=auto)\n"
    sentence = refused(gmt, tmp_path, on(nodes), setting, says="" if "gpus" in setting else says)
    assert "a run must fit on the cluster" in sentence
    assert setting.split(".")[1].split("=")[0] in sentence
    assert "the cluster has 1 x (1 CPU, 0 GPU" in sentence


def test_a_node_with_other_code_of_this_project(gmt: Gmt, tmp_path: Path, nodes: Nodes) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "gmt", other / "gmt", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "gmt" / "duration.py").open("a") as file:
        file.write("# changed\n")
    number = nodes.add(PYTHONPATH=str(other))
    try:
        sentence = refused(gmt, tmp_path, on(nodes))
    finally:
        nodes.kill(number)
    assert f"of the cluster at {nodes.address} must have this machine's gmt-lab, " in sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to hide a folder from a node")
def test_a_node_that_does_not_share_the_folder(gmt: Gmt, tmp_path: Path, nodes: Nodes) -> None:
    root = tmp_path / "gmt-results"
    (root / "runs").mkdir(parents=True)
    hidden = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {root} && exec "$@"', "sh")
    number = nodes.add(under=hidden)
    try:
        sentence = refused(gmt, tmp_path, on(nodes))
    finally:
        nodes.kill(number)
    assert "record.root must be a folder that every node shares; node" in sentence
