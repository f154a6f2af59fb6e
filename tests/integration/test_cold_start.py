"""What a sweep imports and starts before its first run, shown by real processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from gmt_launchers.cluster import connected
from gmt_launchers.planned_runs import launch_runs
from gmt_launchers.starting import StartingRay

from gmt.errors import UserError
from gmt.runs.attempt import Outcome
from gmt.runs.build import Run, build

TRAINING = {"gmt.training.train", "peft", "scipy", "trl"}
OF_DRIVER = {"hydra", "matplotlib", "mlflow", "omegaconf", "optuna", "statsmodels"}
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


def test_a_fault_of_a_ray_that_starts_is_raised_where_the_driver_waits_for_it() -> None:
    def refuse() -> Any:
        raise UserError("there is no room")

    with pytest.raises(UserError, match="there is no room"), StartingRay(refuse):
        pass


def look(config: Mapping[str, Any], stop: Path, go_on: Callable[[int, float], bool]) -> Outcome:
    """Write down the modules and the variables of a worker before its first run."""
    (stop.parent / "modules").write_text(" ".join(sys.modules))
    (stop.parent / "variables").write_text(" ".join(os.environ))
    return Outcome(state="done")


def runs(root: Path) -> list[Run]:
    from gmt.composition import Composer, hydra_on  # here, since a worker imports this file
    from tests.conftest import CONF

    with hydra_on(CONF):
        return [build(Composer().compose_plain(["task=tiny", f"record.root={root}"]))]


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
def test_ray_starts_what_a_sweep_uses_and_a_worker_imports_nothing_before_its_run(tmp_path: Path) -> None:
    from tests.processes import wait_for

    todo = runs(tmp_path)
    starting = StartingRay(lambda: connected(None, 1))
    try:
        wait_for(lambda: "ray::IDLE" in " ".join(commands().values()), 60)
        before = commands()
        assert not [command for command in before.values() if any(name in command for name in LEFT_OUT)]
        launch_runs(todo, tmp_path / "stop", address=None, num_cpus=1, work=look, starting=starting)
    finally:
        starting.end()
    variables = (tmp_path / "variables").read_text().split()
    assert "PL_DISABLE_FORK" not in variables  # a worker with variables of its own would be started only now
    imported = set((tmp_path / "modules").read_text().split())
    unused = {"datasets", "torch", "transformers"}
    assert sorted((TRAINING | OF_DRIVER | unused) & imported) == []
    assert not [command for command in commands().values() if "raylet" in command]
