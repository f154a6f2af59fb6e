"""A run on two workers whose processes die or freeze as they start is started again, and nothing waits for ever."""

import os
import signal
import subprocess

import psutil
import pytest

from tests.conftest import CONF
from tests.faults.conftest import SETTINGS, Sweeps, finish
from tests.processes import command_of

pytestmark = pytest.mark.faults

RUN = ("run", "-m", "method=sft", "task=tiny", "resources.workers=2", "hydra.launcher.num_cpus=2", *SETTINGS)


def process_of(sweep: "subprocess.Popen[str]", title: str) -> psutil.Process | None:
    """Return the first process below a sweep whose command line has a title of Ray's."""
    processes = psutil.Process(sweep.pid).children(recursive=True)
    return next((process for process in processes if title in command_of(process)), None)


@pytest.mark.parametrize(
    ("title", "fault"),
    [
        ("ray::RayTrainWorker", signal.SIGSTOP),
        ("ray::RayTrainWorker", signal.SIGKILL),
        ("ray::TrainController.run", signal.SIGKILL),
        ("ray::ImplicitFunc", signal.SIGKILL),  # the trial, which waits for the workers
    ],
    ids=["a-frozen-worker", "a-killed-worker", "a-killed-controller", "a-killed-trial"],
)
def test_workers_that_do_not_start_are_started_again(sweeps: Sweeps, title: str, fault: signal.Signals) -> None:
    sweep = sweeps.start(*RUN, "resources.stall_limit_s=60", "--config-dir", str(CONF))
    if title != "ray::RayTrainWorker":  # these are killed once the workers have started
        sweeps.wait_for(lambda: process_of(sweep, "ray::RayTrainWorker"))
    victim = sweeps.wait_for(lambda: process_of(sweep, title))
    os.kill(victim.pid, fault)
    finish(sweep, timeout_s=400)
    (status,) = sweeps.records("status.json").values()
    assert status["state"] == "done"
    if fault == signal.SIGSTOP:
        (failure,) = status["failures"]
        assert failure["kind"] == "infrastructure"
        assert "its workers did not start within resources.stall_limit_s" in failure["error"]
