"""The imports and processes of a sweep before its first run."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from gmt_launchers.cluster import EarlyWorkers, connected
from gmt_launchers.daemon_thread import call_in_daemon_thread
from gmt_launchers.held import Gate, HeldJobs
from gmt_launchers.planned_runs import _do_in_worker, _wait_at_gate, start_runs
from gmt_launchers.starting import StartingRuns

from gmt.errors import UserError
from gmt.runs.attempt import Outcome, attempt, get_ready
from gmt.runs.build import Run, build
from tests.processes import command_of, wait_for

TRAINING = {"gmt.training.train", "peft", "scipy", "trl"}
DRIVER_ONLY = {"hydra", "mlflow", "omegaconf", "optuna", "statsmodels"}
UNUSED_PROCESSES = ("autoscaler/_private/monitor.py", "dashboard/dashboard.py", "log_monitor.py", "ray::Dashboard")
CHECK_PLAN = """
import sys
from gmt.composition import Composer, hydra_on
from gmt.errors import RunFailed
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.progress import Lines
from gmt.studies.sweep import run_sweep
from gmt.tracking.settings import TrackingSettings

arms = {"sft": {"method": "sft"}, "gmt": {"method": "gmt"}}  # these methods fit every model
with hydra_on(None):
    plan = make_plan(Composer(), StudySettings(name="x", question="x", shared={}, arms=arms), {})
nowhere = TrackingSettings(uri=None, artifacts=None, experiment="x")
try:
    run_sweep(plan, nowhere, lambda todo, folder: None, Lines(), say=lambda line: None, remedy="")
except RunFailed:
    print(*sys.modules)
"""


def test_the_driver_of_a_sweep_imports_nothing_that_trains(tmp_path: Path) -> None:
    driver = subprocess.run(
        [sys.executable, "-c", CHECK_PLAN], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "gmt.runs.prepare" in driver.stdout.split()
    assert not (TRAINING | {"ray"}) & set(driver.stdout.split())


def fail_to_start() -> Any:
    raise UserError("there is no room")


def test_finish_raises_the_error_of_a_ray_that_could_not_start() -> None:
    starting = StartingRuns(fail_to_start, num_waiting=1)
    starting.begin(lambda head, held: None)
    with pytest.raises(UserError, match="there is no room"):
        starting.finish()
    starting.end()


@contextmanager
def no_ray() -> Iterator[Any]:
    """Stand in for Ray where only the order of the calls matters."""
    yield None


def test_runs_do_not_start_if_the_sweep_ends_before_ray_has_started() -> None:
    may_start, started = threading.Event(), []

    @contextmanager
    def slow_ray() -> Iterator[Any]:
        may_start.wait()
        yield None

    starting = StartingRuns(slow_ray, num_waiting=1)
    beginning = call_in_daemon_thread(lambda: starting.begin(lambda head, held: started.append(held)), "test")
    ending = call_in_daemon_thread(starting.end, "test")
    may_start.set()
    wait_for(lambda: beginning.done() and ending.done(), 60)
    assert started == []


def test_end_stops_runs_that_are_held_back_and_may_be_called_twice() -> None:
    stopped = []

    def wait_for_the_end(head: Any, held: HeldJobs) -> None:
        held.are_handed_out.set()
        stopped.append(held.must_end.wait(60))

    starting = StartingRuns(no_ray, num_waiting=1)
    starting.begin(wait_for_the_end)
    starting.end()
    starting.end()
    assert stopped == [True]


def test_a_worker_prepares_its_run_and_checks_all_runs_and_waits_until_the_run_may_begin(tmp_path: Path) -> None:
    gate, calls = Gate(tmp_path), []

    def check(note_num_checked: Callable[[int], None]) -> list[str]:
        calls.append("check")
        note_num_checked(7)
        return ["a fault"]

    wait = partial(_wait_at_gate, gate, tmp_path / "stop", check, partial(calls.append, "prepare"))
    assert gate.faults() is None
    first = call_in_daemon_thread(wait, "test")
    wait_for(lambda: gate.faults() is not None, 60)
    assert (gate.faults(), gate.num_checked()) == (["a fault"], 7)
    second = call_in_daemon_thread(wait, "test")
    wait_for(lambda: calls.count("prepare") == 2, 60)
    assert not first.done()
    assert not second.done()
    gate.let_jobs_begin()
    assert first.result(60).state == second.result(60).state == "done"
    assert calls == ["prepare", "check", "prepare"]


def test_a_worker_that_starts_after_the_gate_has_opened_does_nothing_before_its_run(tmp_path: Path) -> None:
    gate, calls = Gate(tmp_path), list[str]()

    def check(note_num_checked: Callable[[int], None]) -> list[str]:
        calls.append("check")
        return []

    gate.let_jobs_begin()
    outcome = _wait_at_gate(gate, tmp_path / "stop", check, lambda: calls.append("prepare"))
    assert (outcome.state, calls) == ("done", [])


@pytest.mark.parametrize("is_checked", [True, False])
def test_the_driver_learns_the_faults_or_that_no_worker_will_check(is_checked: bool) -> None:
    def do_runs(head: Any, held: HeldJobs) -> None:
        held.are_handed_out.set()
        assert held.driver_waits.wait(60)
        if is_checked:
            waiting = call_in_daemon_thread(
                lambda: held.gate.wait(lambda: None, lambda note_num_checked: ["a fault"]), "test"
            )
            wait_for(lambda: held.gate.faults() is not None, 60)
            held.gate.let_jobs_begin()
            waiting.result(60)
        held.note_no_check("the worker ended")
        held.must_end.wait(60)

    starting = StartingRuns(no_ray, num_waiting=1)
    try:
        starting.begin(do_runs)
        assert starting.faults(1) == (["a fault"] if is_checked else None)
    finally:
        starting.end()


def test_a_ray_that_could_not_start_ends_the_checks() -> None:
    starting = StartingRuns(fail_to_start, num_waiting=1)
    starting.wait_for_ray()
    starting.begin(lambda head, held: None)
    with pytest.raises(UserError, match="there is no room"):
        starting.faults(1)
    starting.end()


def test_a_fault_of_a_runs_settings_fails_its_attempt_and_not_its_preparation(tmp_path: Path) -> None:
    [run] = runs(tmp_path, "train.max_length=2")
    get_ready(run.config)
    assert attempt(run.config, tmp_path / "stop", lambda step, score: True).kind == "user"


def test_a_run_leaves_no_record_if_its_sweep_is_stopped_while_it_is_held_back(tmp_path: Path) -> None:
    gate, stop, begun = Gate(tmp_path), tmp_path / "stop", []
    stop.touch()
    gate.let_jobs_begin()
    [run] = runs(tmp_path)
    wait = partial(_wait_at_gate, gate, stop, lambda note_num_checked: [], lambda: None)
    outcome = _do_in_worker(run.record_settings, run.record.folder, begun.append, 0.0, wait, None)  # type: ignore[arg-type]
    assert (outcome.state, begun, run.record.exists()) == ("interrupted", [], False)


def describe_worker(config: Mapping[str, Any], stop: Path, report_score: Callable[[int, float], bool]) -> Outcome:
    """Write the id, the modules and the variables of a worker to a file, before its first run."""
    worker = {"pid": os.getpid(), "modules": list(sys.modules), "variables": list(os.environ)}
    (stop.parent / "worker").write_text(json.dumps(worker))
    return Outcome(state="done")


def runs(root: Path, *overrides: str) -> list[Run]:
    from gmt.composition import Composer, hydra_on  # here, since a worker imports this file
    from tests.conftest import CONF

    with hydra_on(CONF):
        return [build(Composer().compose_plain(["task=tiny", f"record.root={root}", *overrides]))]


def commands() -> dict[int, str]:
    """Return the command lines of this process's descendants, by process id."""
    return {process.pid: command_of(process) for process in psutil.Process().children(recursive=True)}


def imports_for_training(pid: int) -> bool:
    try:
        return any("/scipy/" in memory.path for memory in psutil.Process(pid).memory_maps())
    except psutil.Error:
        return False


@pytest.mark.slow  # the other tests of sweeps start Ray in the same way, and do not check the processes
def test_the_first_worker_imports_what_training_needs_while_its_run_is_held_back(tmp_path: Path) -> None:
    todo = runs(tmp_path)
    starting = StartingRuns(partial(connected, None, 2, early=EarlyWorkers(number=1, num_threads=1)), num_waiting=1)
    try:
        starting.wait_for_ray()
        wait_for(lambda: " ".join(commands().values()).count("ray::") >= 2, 60)  # an agent and a worker
        before = commands()
        start_runs(todo, tmp_path / "stop", starting, work=describe_worker)
        assert not [command for command in before.values() if any(name in command for name in UNUSED_PROCESSES)]
        wait_for(lambda: any(map(imports_for_training, commands())), 120)
        assert starting.faults(1) == []
        assert not (tmp_path / "worker").exists()
        starting.finish()
    finally:
        starting.end()
    worker = json.loads((tmp_path / "worker").read_text())
    assert worker["pid"] in before
    assert "PL_DISABLE_FORK" not in worker["variables"]  # Ray starts a new worker for a job with variables of its own
    assert TRAINING | {"torch", "transformers", "gmt_launchers.preload"} < set(worker["modules"])
    assert sorted(DRIVER_ONLY & set(worker["modules"])) == []
    assert not [command for command in commands().values() if "raylet" in command]
