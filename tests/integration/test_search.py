"""Runs that a search gives up are marked, leave the others alone, count as no result, and can be gone on with."""

import json
from pathlib import Path

import pytest

from tests.conftest import CONF, Gmt

RUNS = (
    "run",
    "-m",
    "method=sft",
    "task=known",
    "train.learning_rate=1e-5,1e-1,2e-1",
    "record.evaluate_every=2",
    "tracking=none",
    "--config-dir",
    str(CONF),
)
ONE_BY_ONE = "hydra.launcher.num_cpus=1"  # the good one has set the mark when the others come


@pytest.mark.parametrize(
    "search",
    [
        ("search=asha", "search.first_rung_steps=2", "search.reduction_factor=2"),
        pytest.param(("search=median", "search.first_steps=2", "search.min_runs=1"), marks=pytest.mark.slow),
    ],
    ids=["asha", "median"],
)
def test_a_run_that_is_stopped_early_is_no_finished_run(gmt: Gmt, tmp_path: Path, search: tuple[str, ...]) -> None:
    done = gmt(*RUNS, *search, ONE_BY_ONE)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [json.loads(path.read_text()) for path in tmp_path.glob("gmt-results/runs/*/status.json")]
    states = [status["state"] for status in statuses]
    num_stopped = states.count("stopped")
    assert sorted(states) == ["done"] * (3 - num_stopped) + ["stopped"] * num_stopped
    assert 1 <= num_stopped <= 2
    assert len(list(tmp_path.glob("gmt-results/runs/*/result.json"))) == 3 - num_stopped
    assert "stopped early at step" in done.stdout
    assert f"{3 - num_stopped} done, {num_stopped} stopped" in done.stdout
    again = gmt(*RUNS, *search, ONE_BY_ONE)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    whole = gmt(*RUNS, "hydra/launcher=basic")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert len(list(tmp_path.glob("gmt-results/runs/*/result.json"))) == 3


def test_a_search_that_sees_no_evaluation_is_refused(gmt: Gmt) -> None:
    done = gmt("run", "-m", "seed=1,2", "search=asha")
    assert done.returncode == 2
    assert "search needs record.evaluate_every to be at least 1, got 0" in done.stderr
