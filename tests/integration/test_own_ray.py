"""The Ray that a sweep starts on this machine: its processes, and what its workers run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from gmt_launchers.cluster import connected

from tests.processes import name_of, wait_for

# Prints what a worker of a Ray of its own runs in.
SHOW_WORKER = """
import json, os, sys
import ray
from gmt_launchers.cluster import connected

with connected(None, 1):
    worker = ray.get(ray.remote(lambda: [sys.executable, os.environ.get("OF_ANOTHER")]).remote())
    print(json.dumps([*worker, ray.get_runtime_context().get_runtime_env_string()]))
"""
HOOK = """
def hook(runtime_env):
    return {"env_vars": {"OF_ANOTHER": "cluster"}}
"""
LOSE_HEAD = """
import time
import psutil
from gmt.leaving import leave
from gmt_launchers.cluster import connected

with connected(None, 1) as head:
    next(child for child in psutil.Process().children() if child.name() == "gcs_server").kill()
    while head.lost is None:
        time.sleep(0.1)
    print(head.lost)
leave(7)
"""
AS_CHILD = f"import subprocess, sys; sys.exit(subprocess.call([{sys.executable!r}, 'show_worker.py']))"


def below(process: psutil.Process, name: str) -> psutil.Process | None:
    return next((child for child in process.children(recursive=True) if name_of(child).startswith(name)), None)


def test_a_job_may_ask_for_an_environment_while_its_agent_still_starts() -> None:
    with connected(None, 1):
        read = ray.remote(runtime_env={"env_vars": {"OF_THIS_JOB": "yes"}})(lambda: os.environ.get("OF_THIS_JOB"))
        assert ray.get(read.remote(), timeout=60) == "yes"
        assert ray.get(ray.remote(lambda: os.environ.get("OF_THIS_JOB")).remote(), timeout=60) is None


def test_a_killed_node_leaves_no_process_when_its_driver_has_ended() -> None:
    with connected(None, 1):
        raylet = below(psutil.Process(), "raylet")
        assert raylet is not None
        wait_for(lambda: below(raylet, "ray::RuntimeEnv"), 60)
        processes = raylet.children(recursive=True)
        agents = [process for process in processes if name_of(process) not in ("ray::IDLE", "")]
        assert sorted(name_of(process) for process in agents) == ["cat", "ray::RuntimeEnvAgent"]
        raylet.kill()
        assert psutil.wait_procs(agents, timeout=60)[1] == []
    assert psutil.wait_procs(processes, timeout=60)[1] == []


def test_the_loss_of_the_head_is_noticed_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOSE_HEAD], cwd=tmp_path, capture_output=True, text=True, timeout=40)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("Ray, which this sweep started on this machine, has ended")
    assert done.stderr == ""


@pytest.mark.parametrize("case", ["uv", "hook", "job"])
def test_workers_run_what_the_driver_runs(tmp_path: Path, case: str) -> None:
    (tmp_path / "show_worker.py").write_text(SHOW_WORKER, encoding="utf-8")
    (tmp_path / "run").write_text(AS_CHILD, encoding="utf-8")
    (tmp_path / "hooks.py").write_text(HOOK, encoding="utf-8")
    of_another = {"runtime_env": {"env_vars": {"OF_ANOTHER": "cluster"}}}
    variables: dict[str, dict[str, Any]] = {
        "uv": {},
        "hook": {"RAY_RUNTIME_ENV_HOOK": "hooks.hook", "PYTHONPATH": str(tmp_path)},
        "job": {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(of_another)},
    }
    # Ray looks for a process `uv run` among its driver's parents, and then copies the current folder, if it is small.
    command = ["uv", "run"] if case == "uv" else [sys.executable, "show_worker.py"]
    with (tmp_path / "large").open("wb") as file:
        file.truncate(600 * 1024**2)
    env = os.environ | variables[case]
    done = subprocess.run(
        command, executable=sys.executable, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [sys.executable, None, "{}"]
