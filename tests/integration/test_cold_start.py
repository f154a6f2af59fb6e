"""What a sweep imports and starts before its first run, shown by real processes."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from gmt_launchers.aside import aside
from gmt_launchers.cluster import connected
from gmt_launchers.held import Gate, Held
from gmt_launchers.planned_runs import _on_node, _wait_at, start_runs
from gmt_launchers.starting import StartingRuns

from gmt.errors import UserError
from gmt.runs.attempt import Outcome, attempt, get_ready
from gmt.runs.build import Run, build
from tests.processes import wait_for

TRAINING = {"gmt.training.train", "peft", "scipy", "trl"}
OF_DRIVER = {"hydra", "mlflow", "omegaconf", "optuna", "statsmodels"}
LEFT_OUT = ("autoscaler/_private/monitor.py", "dashboard/dashboard.py", "log_monitor.py")
CHECKED = """
import sys
from gmt.composition import Composer, hydra_on
from gmt.errors import RunFailed
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.progress import Lines
from gmt.studies.sweep import run_sweep
from gmt.tracking.settings import TrackingSettings

arms = {"sft": {"method": "sft"}, "gmt": {"method": "gmt"}}  # which fit every model
with hydra_on(None):
    plan = make_plan(Composer(), StudySettings(name="x", question="x", shared={}, arms=arms), {})
nowhere = TrackingSettings(uri=None, artifacts=None, experiment="x")
try:
    run_sweep(plan, nowhere, lambda todo, folder: None, Lines(), say=lambda line: None, remedy="")
except RunFailed:
    print(*sys.modules)
"""


def test_the_driver_of_a_sweep_imports_nothing_that_trains(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHECKED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "gmt.runs.prepare" in done.stdout.split()
    assert not (TRAINING | {"ray"}) & set(done.stdout.split())


def refuse() -> Any:
    raise UserError("there is no room")


def test_a_fault_of_a_ray_that_starts_is_raised_where_the_driver_waits_for_the_runs() -> None:
    starting = StartingRuns(refuse, num_waiting=1)
    starting.begin(lambda head, held: None)
    with pytest.raises(UserError, match="there is no room"):
        starting.finish()
    starting.end()


@contextmanager
def nothing() -> Iterator[Any]:
    """Stands for Ray where only the order of the calls matters."""
    yield None


def test_runs_are_not_done_if_the_check_ends_before_ray_has_started() -> None:
    may_start, done = threading.Event(), []

    @contextmanager
    def slowly() -> Iterator[Any]:
        may_start.wait()
        yield None

    starting = StartingRuns(slowly, num_waiting=1)
    beginning = aside(lambda: starting.begin(lambda head, held: done.append(held)), "test")
    ending = aside(starting.end, "test")
    may_start.set()
    wait_for(lambda: beginning.done() and ending.done(), 60)
    assert done == []


def test_the_end_asks_runs_that_are_held_back_to_end() -> None:
    def until_over(head: Any, held: Held) -> None:
        held.handed_out.set()
        held.over.wait()

    starting = StartingRuns(nothing, num_waiting=1)
    starting.begin(until_over)
    starting.end()
    starting.end()


def test_a_worker_gets_ready_and_waits_until_its_run_may_begin(tmp_path: Path) -> None:
    gate, ready = Gate(tmp_path), threading.Event()
    waiting = aside(lambda: _wait_at(gate, tmp_path / "stop", ready.set), "test")
    assert ready.wait(60)
    assert not waiting.done()
    gate.open()
    assert waiting.result(60).state == "done"


def test_a_worker_that_comes_late_begins_at_once(tmp_path: Path) -> None:
    gate, ready = Gate(tmp_path), threading.Event()
    gate.open()
    assert _wait_at(gate, tmp_path / "stop", ready.set).state == "done"
    assert not ready.is_set()


def test_what_is_wrong_with_a_run_is_told_by_its_attempt_and_not_before(tmp_path: Path) -> None:
    [run] = runs(tmp_path, "train.max_length=2")
    get_ready(run.config)
    assert attempt(run.config, tmp_path / "stop", lambda step, score: True).kind == "user"


def test_a_run_whose_sweep_was_stopped_while_it_was_held_back_leaves_no_record(tmp_path: Path) -> None:
    gate, stop, begun = Gate(tmp_path), tmp_path / "stop", []
    stop.touch()
    gate.open()
    [run] = runs(tmp_path)
    wait = partial(_wait_at, gate, stop, lambda: None)
    ended = _on_node(run.record_settings, run.record.folder, begun.append, 0.0, wait, None)  # type: ignore[arg-type]
    assert (ended.state, begun, run.record.exists()) == ("interrupted", [], False)


def look(config: Mapping[str, Any], stop: Path, go_on: Callable[[int, float], bool]) -> Outcome:
    """Write down what a worker is like before its first run."""
    worker = {"pid": os.getpid(), "modules": list(sys.modules), "variables": list(os.environ)}
    (stop.parent / "worker").write_text(json.dumps(worker))
    return Outcome(state="done")


def runs(root: Path, *overrides: str) -> list[Run]:
    from gmt.composition import Composer, hydra_on  # here, since a worker imports this file
    from tests.conftest import CONF

    with hydra_on(CONF):
        return [build(Composer().compose_plain(["task=tiny", f"record.root={root}", *overrides]))]


def commands() -> dict[int, str]:
    """The command lines of the processes below this one, by their ids."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue
    return found


@pytest.mark.slow  # every sweep of the other tests starts Ray so; this looks at the processes
def test_ray_starts_what_a_sweep_uses_and_its_first_worker_imports_while_the_runs_are_held_back(tmp_path: Path) -> None:
    todo = runs(tmp_path)
    starting = StartingRuns(lambda: connected(None, 2), num_waiting=1)
    try:
        start_runs(todo, tmp_path / "stop", starting, work=look)
        wait_for(lambda: " ".join(commands().values()).count("ray::") >= 4, 60)  # two agents and two workers
        before = commands()
        assert not [command for command in before.values() if any(name in command for name in LEFT_OUT)]
        time.sleep(10)  # Ray would end a worker that is idle for a second
        assert not (tmp_path / "worker").exists()
        starting.finish()
    finally:
        starting.end()
    worker = json.loads((tmp_path / "worker").read_text())
    assert worker["pid"] in before
    assert "PL_DISABLE_FORK" not in worker["variables"]  # a worker with variables of its own would be started only now
    assert TRAINING | {"torch", "transformers"} < set(worker["modules"])
    assert sorted(OF_DRIVER & set(worker["modules"])) == []
    assert not [command for command in commands().values() if "raylet" in command]
