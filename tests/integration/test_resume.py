"""A run that is killed with SIGKILL goes on from its checkpoint and ends with the same weights, bit for bit."""

import json
import os
import re
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from gmt.runs import execute as execution
from gmt.runs.environment import environment
from gmt.runs.execute import execute
from tests.conftest import CONF, Gmt
from tests.integration.test_prepare import run_of
from tests.processes import wait_for
from tests.warm import start_gmt

OUTPUT = "output.txt"
SETTINGS = ("task=tiny", "train.num_epochs=8", "record.log_every=2", "record.checkpoint_every=4", "tracking=none")


def result(root: Path) -> dict[str, Any]:
    path = next(root.glob("runs/*/result.json"))
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def start(cwd: Path, *arguments: str) -> BaseProcess:
    return start_gmt(arguments, cwd, cwd / OUTPUT, cwd / OUTPUT)


def wait_for_checkpoint(root: Path, started: BaseProcess) -> Path:
    def checkpoints() -> list[Path]:
        if not started.is_alive():
            raise AssertionError(f"it ended before its first checkpoint: {(root.parent / OUTPUT).read_text()}")
        return list(root.glob("runs/*/checkpoint/**/checkpoint-*/method_state.pt"))

    return wait_for(checkpoints, 300, every_s=0.02)[0].parent  # two busy cores beside it


def test_an_attempt_with_uncommitted_changes_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path)
    run.record.create(run.science, run.config)
    run.record.write("environment.json", {"dirty": True})
    monkeypatch.setattr(execution, "environment", lambda: environment() | {"dirty": False})
    assert execute(run).read("environment.json")["dirty"] is True


@pytest.mark.parametrize(
    "method",
    [
        "gmt",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("sft", "hft", "rmt", "sift", "lora", "lt_sft", "cautious")),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(gmt: Gmt, tmp_path: Path, method: str) -> None:
    arguments = ("run", f"method={method}", *SETTINGS, "--config-dir", str(CONF))
    whole = gmt(*arguments, "record.root=whole")
    assert whole.returncode == 0, whole.stderr
    killed = start(tmp_path, *arguments, "record.root=killed")
    wait_for_checkpoint(tmp_path / "killed", killed)
    killed.kill()
    killed.join()
    assert not list((tmp_path / "killed").glob("runs/*/result.json"))
    resumed = gmt(*arguments, "record.root=killed")
    assert resumed.returncode == 0, resumed.stderr
    a, b = result(tmp_path / "whole"), result(tmp_path / "killed")
    assert a["weights_sha256"] == b["weights_sha256"]
    assert a["after"] == b["after"]
    assert a["training"]["density"] == b["training"]["density"]
    assert a["seconds"] > a["train_seconds"] > 0
    assert b["seconds"] is None  # nobody knows when it was killed
    status = json.loads(next((tmp_path / "killed").glob("runs/*/status.json")).read_text())
    assert status["attempts"] == 2
    lines = next((tmp_path / "killed").glob("runs/*/metrics.jsonl")).read_text().splitlines()
    steps = [row["step"] for row in map(json.loads, lines) if "train/loss" in row]
    logged = list(range(2, b["training"]["num_steps"] + 1, 2))
    assert steps == logged
    printed = [int(line.split()[1]) for line in resumed.stdout.splitlines() if line.startswith("step ")]
    before = int(re.search(r"an earlier attempt logged steps up to (\d+)", resumed.stdout)[1])  # type: ignore[index]
    assert printed == [step for step in logged if step > before]
    assert "missing keys" not in resumed.stdout + resumed.stderr


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_with_the_same_bits(gmt: Gmt, tmp_path: Path) -> None:
    arguments = ("sweep", "study=tiny", "seed=1", *SETTINGS[1:], "--config-dir", str(CONF))
    killed = start(tmp_path, *arguments, "record.root=killed")
    wait_for_checkpoint(tmp_path / "killed", killed)
    killed.kill()
    killed.join()
    again = gmt(*arguments, "record.root=killed")
    assert again.returncode == 0, again.stdout + again.stderr
    whole = gmt(*arguments, "record.root=whole", "hydra/launcher=basic")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    hashes = [
        {p.parent.name: json.loads(p.read_text())["weights_sha256"] for p in (tmp_path / r).glob("runs/*/result.json")}
        for r in ("killed", "whole")
    ]
    assert len(hashes[0]) == 4
    assert hashes[0] == hashes[1]


def test_ctrl_c_stops_a_sweep_with_a_word_on_how_to_go_on(tmp_path: Path) -> None:
    sweep = start(tmp_path, "sweep", "study=tiny", *SETTINGS[1:], "--config-dir", str(CONF))
    wait_for_checkpoint(tmp_path / "gmt-results", sweep)
    assert sweep.pid is not None
    os.kill(sweep.pid, signal.SIGINT)
    sweep.join(240)
    output = (tmp_path / OUTPUT).read_text()
    assert sweep.exitcode == 130, output
    assert "the same command resumes" in output
    assert "Traceback" not in output
