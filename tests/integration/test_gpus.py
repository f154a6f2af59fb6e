"""Each run of a sweep gets the GPU that it takes, and no other. Ray pretends the GPUs, and torch is faked."""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gmt_launchers.cluster import connected
from gmt_launchers.daemon_thread import call_in_daemon_thread
from gmt_launchers.planned_runs import launch_runs, start_runs
from gmt_launchers.room import all_nodes
from gmt_launchers.starting import StartingRuns

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs import gpus
from gmt.runs.attempt import Outcome
from gmt.runs.build import Run, build
from tests.conftest import CONF

CORES = 4  # each run is a process that imports torch


def look(config: Mapping[str, Any], stop: Path, report_score: Callable[[int, float], bool]) -> Outcome:
    """What a worker does here: it writes down what it sees, and stays until all have come."""
    import torch

    from gmt.runs.device import device_of
    from tests.processes import wait_for

    shown = [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each not in ("", "-1")]
    torch.cuda.is_available = lambda: bool(shown)
    torch.cuda.device_count = lambda: len(shown)
    run = build(config)
    seen = {"shown": shown, "gpus": run.resources.gpus, "device": device_of(run.resources)}
    (stop.parent / f"{run.seed}.json").write_text(json.dumps(seen))
    wait_for(lambda: len(list(stop.parent.glob("*.json"))) == CORES, 300)
    return Outcome(state="done")


def leave_a_file(config: Mapping[str, Any], stop: Path, report_score: Callable[[int, float], bool]) -> Outcome:
    """The work of a run here: it leaves a file."""
    (stop.parent / f"{config['seed']}.json").touch()
    return Outcome(state="done")


def runs(root: Path, *asked: str, cpus: int = 1) -> list[Run]:
    with hydra_on(CONF):
        composer = Composer()
        common = ["task=tiny", f"record.root={root}", f"resources.cpus={cpus}"]
        return [
            build(composer.compose_plain([*common, f"seed={seed}", f"resources.gpus={gpus}"]))
            for seed, gpus in enumerate(asked)
        ]


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gpus, "_build_of_torch", lambda: "cuda")
    monkeypatch.setattr(gpus, "_num_nvidia", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus.gpus_here.cache_clear()
    yield
    gpus.gpus_here.cache_clear()


@pytest.mark.usefixtures("four_gpus")
def test_a_run_sees_its_own_gpu_and_one_with_none_sees_none(tmp_path: Path) -> None:
    todo = runs(tmp_path, "auto", "auto", "0.5", "0")
    launch_runs(todo, tmp_path / "stop", address=None, num_cpus=CORES, work=look)
    found = [json.loads((tmp_path / f"{seed}.json").read_text()) for seed in range(CORES)]
    assert [each["gpus"] for each in found] == [1, 1, 0.5, 0]
    assert [each["device"] for each in found] == ["cuda"] * 3 + ["cpu"]
    assert [len(each["shown"]) for each in found] == [1, 1, 1, 0]
    whole, shared = ({each["shown"][0] for each in some} for some in (found[:2], found[2:3]))
    assert len(whole) == 2
    assert not whole & shared


@pytest.mark.slow  # tests/integration/test_joining.py holds the same of a joined cluster
def test_a_gpu_that_no_node_has_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"got resources\.cpus=1, resources\.gpus=1; the cluster has 1 x \(1 CPU, 0 GPU"
    ):
        launch_runs(runs(tmp_path, "1"), tmp_path / "stop", address=None, num_cpus=1, work=look)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("asked", "cpus"), [("1", 1), ("0", 3)], ids=["one GPU", "three of four cores"])
def test_a_sweep_begins_if_fewer_runs_have_room_than_the_machine_has_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, cpus: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    todo = runs(tmp_path, asked, asked, asked, cpus=cpus)
    starting = StartingRuns(partial(connected, None, CORES), num_waiting=CORES - 1)
    try:
        beginning = call_in_daemon_thread(
            lambda: start_runs(todo, tmp_path / "stop", starting, work=leave_a_file), "test"
        )
        beginning.result(300)
        assert starting.faults(len(todo)) is not None
        starting.finish()
    finally:
        starting.end()
    assert len(list(tmp_path.glob("*.json"))) == len(todo)


def test_ray_has_the_cores_that_this_process_may_use() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with connected(None, None):
            (node,) = all_nodes()
    finally:
        os.sched_setaffinity(0, cores)
    assert node["CPU"] == 1
