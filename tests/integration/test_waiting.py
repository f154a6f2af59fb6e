"""What Ray waits for without a word is said, with the numbers; nothing that waits holds what others wait for."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from gmt_launchers import ray_tune, waiting
from gmt_launchers.cluster import Head, connected
from gmt_launchers.job_queue import Job, Ready
from gmt_launchers.ray_tune import run_jobs
from ray.util.placement_group import placement_group

from tests.processes import wait_for

CORES = 2


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with connected(None, CORES) as made:
        yield made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(ray_tune, "say", lines.append)
    monkeypatch.setitem(waiting._PATIENCE_S, "room", 1.0)
    return lines


class Once:
    """An owner whose one job is done once, until somebody asks for the end."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.stop = False

    def ready(self, index: int) -> Ready:
        return Ready.GO

    def handle_result(self, index: int, result: Any) -> None:
        self.results.append(result)

    def handle_death(self, index: int, error: Exception) -> None:
        self.results.append(error)

    def note_early_stop(self, index: int) -> None: ...

    def is_stopped(self) -> bool:
        return self.stop

    def is_working(self) -> bool:
        return False


def job(cpus: float, memory_bytes: int | None = None) -> Job:
    return Job(work=lambda report_score: "done", cpus=cpus, gpus=0, memory_bytes=memory_bytes)


class Others:
    """Another user's job that holds cores."""


def holding(cores: float) -> Any:
    made = ray.remote(Others).options(num_cpus=cores).remote()
    ray.get(made.__ray_ready__.remote())
    return made


def test_a_run_that_waits_for_its_workers_takes_no_core_from_them(head: Head, said: list[str]) -> None:
    others, owner = holding(CORES), Once()
    run_jobs([job(0)], owner, head)
    ray.kill(others)
    assert (owner.results, said) == (["done"], [])


class Controller:
    """Reserves cores for other processes, as Ray Train's controller does."""

    def reserve(self, cores: float) -> bool:
        return placement_group([{"CPU": cores}]).wait(240)


def test_cores_that_a_dead_controller_reserved_are_free_again(head: Head, said: list[str]) -> None:
    controller, owner = ray.remote(Controller).options(num_cpus=0).remote(), Once()
    assert ray.get(controller.reserve.remote(CORES))
    ray.kill(controller)
    run_jobs([job(CORES)], owner, head)
    assert owner.results == ["done"]


def test_cores_that_others_hold_are_waited_for_in_words(head: Head, said: list[str]) -> None:
    others, owner = holding(1), Once()

    def end_others() -> None:
        wait_for(lambda: said, 240)
        ray.kill(others)

    threading.Thread(target=end_others).start()
    run_jobs([job(2)], owner, head)
    assert owner.results == ["done"]
    assert len(said) == 2
    assert "a run needs 1 x (2 CPU), and the cluster's nodes have 1 x (1 CPU) free" in said[0]
    assert said[1] == "the sweep continues"


@pytest.mark.usefixtures("head")
def test_a_process_that_does_not_come_up_is_waited_for_in_words(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = waiting.Reservations(pending=(), num_granted=1)
    monkeypatch.setattr(waiting, "reservations", lambda: granted)
    monkeypatch.setitem(waiting._PATIENCE_S, "process", 0.0)
    starting = [True]
    watch = waiting.Waiting(said.append, lambda: starting[-1])
    watch._check()
    watch._check()  # which says it once
    starting.append(False)
    watch._check()
    assert len(said) == 2
    assert "Ray is still starting the processes of a run (Ray's own logs are in /" in said[0]
    assert said[1] == "the sweep continues"


def test_what_the_cluster_has_lost_is_waited_for_in_words_until_the_sweep_is_ended(head: Head, said: list[str]) -> None:
    owner = Once()

    def end_it() -> None:
        wait_for(lambda: said, 240)
        owner.stop = True

    threading.Thread(target=end_it).start()
    run_jobs([job(CORES + 1, memory_bytes=10**9)], owner, head)
    assert owner.results == []
    (sentence,) = said
    assert "a run needs 1 x (3 CPU, 1 GB memory), and the cluster has 1 x (2 CPU, 0 GPU, " in sentence
