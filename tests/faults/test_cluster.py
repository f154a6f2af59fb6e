"""What can break on a cluster: three real nodes on this machine, joined by a driver that is none of them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import STUDY, Sweeps, attempts, finish, weights
from tests.ray_nodes import Nodes

pytestmark = pytest.mark.faults


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    for _ in range(2):
        made.add()
    yield made
    made.end()


def on(nodes: Nodes) -> str:
    return f"hydra.launcher.address={nodes.address}"


def node_of(nodes: Nodes, pid: int) -> int:
    """The number of the node that a worker belongs to."""
    family = {parent.pid for parent in psutil.Process(pid).parents()}
    return next(i for i, started in enumerate(nodes.started) if started.pid in family)


def test_a_node_that_is_lost(sweeps: Sweeps, nodes: Nodes, undisturbed: dict[str, str]) -> None:
    sweep = sweeps.start(*STUDY, on(nodes))
    victim = sweeps.wait_for_checkpoint()
    nodes.kill(node_of(nodes, sweeps.records("status.json")[victim]["pid"]))
    finish(sweep, timeout_s=400)
    assert weights(sweeps) == undisturbed
    assert attempts(sweeps)[victim] == 2
    failure = sweeps.records("status.json")[victim]["failures"][0]
    assert (failure["kind"], failure["error"]) == ("preempted", "its node was lost")


def test_a_worker_that_is_killed_on_a_node(sweeps: Sweeps, nodes: Nodes, undisturbed: dict[str, str]) -> None:
    sweep = sweeps.start(*STUDY, on(nodes))
    victim = sweeps.wait_for_checkpoint()
    os.kill(sweeps.records("status.json")[victim]["pid"], signal.SIGKILL)
    finish(sweep, timeout_s=400)
    assert weights(sweeps) == undisturbed
    assert sweeps.records("status.json")[victim]["failures"][0]["kind"] == "infrastructure"


def test_the_head_that_is_lost(sweeps: Sweeps, nodes: Nodes, undisturbed: dict[str, str], tmp_path: Path) -> None:
    sweep = sweeps.start(*STUDY, on(nodes))
    sweeps.wait_for_checkpoint()
    nodes.kill(0)
    output = finish(sweep, expect=1, timeout_s=150)
    assert "the head of the cluster" in output, output
    assert "Sweep again" in output
    nodes.end()
    folder = tmp_path / "again"
    folder.mkdir()
    again = Nodes(folder)
    again.add(num_cpus=2)
    try:
        sweeps.run(*STUDY, on(again), timeout_s=400)
    finally:
        again.end()
    assert weights(sweeps) == undisturbed
