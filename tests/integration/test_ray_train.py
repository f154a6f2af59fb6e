"""One run on two workers by real Ray Train, from a driver and from a Tune trial."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from gmt_launchers.ray_train import attempt_on_workers, run_on_workers
from ray import tune

from gmt.composition import Composer, hydra_on
from gmt.errors import RunFailed
from gmt.methods.sft import Sft
from gmt.runs.build import build
from gmt.runs.execute import execute
from tests.conftest import CONF, Gmt
from tests.listening import Listening, driver_in, family_of, listening

pytestmark = pytest.mark.slow  # Ray Train starts its processes anew for each run


@dataclass(frozen=True, kw_only=True)
class FailsOnSecondWorker:
    """A method that one of two workers can't attach."""

    name: str
    target_density: None = None

    def attach(self, *args: Any, **how: Any) -> Any:
        if os.environ["RANK"] == "1":
            raise LookupError("no such method on worker 1")
        return Sft(name="sft").attach(*args, **how)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    ray.init(address="local", num_cpus=3, **quiet)  # two for the workers, and a share of one for the trial
    yield
    ray.shutdown()


def config(root: Path, *overrides: str) -> dict[str, Any]:
    with hydra_on(CONF):
        return Composer().compose_plain(["task=tiny", "tracking=none", f"record.root={root}", *overrides])


def in_a_trial(config: dict[str, Any], storage: Path) -> None:
    """What the launcher does, at its barest."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}

    def trial(_: dict[str, Any]) -> None:
        outcome = attempt_on_workers(config, storage / "stop", lambda step, score: True)
        tune.report({"state": outcome.state, "error": outcome.error})

    (result,) = tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.1}), run_config=tune.RunConfig(storage_path=str(storage), verbose=0)
    ).fit()
    assert result.metrics["state"] == "done", result.metrics


def test_two_workers_in_a_trial_leave_the_record_of_one(tmp_path: Path) -> None:
    two = config(tmp_path / "two", "resources.workers=2", "record.log_every=1", "record.evaluate_every=2")
    in_a_trial(two, tmp_path / "tune")
    one = build(config(tmp_path / "one", "record.log_every=1", "record.evaluate_every=2"))
    execute(one)
    found, expected = build(two).record, one.record
    assert found.id == expected.id
    assert found.state() == "done"
    assert {p.name for p in found.folder.iterdir()} == {p.name for p in expected.folder.iterdir()} | {"nodes.txt"}
    # A step of two mini-batches: two gradients add up to the same bits in either order.
    for key in ("weights_sha256", "before", "after", "moved_fraction", "num_parameters"):
        assert found.read("result.json")[key] == expected.read("result.json")[key], key
    steps = [
        [(r["step"], r.get("train/loss"), r.get("train/tokens")) for r in e.metrics()[0]] for e in (found, expected)
    ]
    assert steps[0] == steps[1]


def test_a_worker_that_fails_ends_all_with_its_own_error(tmp_path: Path) -> None:
    failing = config(tmp_path, "resources.workers=2")
    failing["method"] = {"_target_": f"{__name__}.FailsOnSecondWorker", "name": "fails", "target_density": None}
    run = build(failing)
    sentence = f"run {run.id} failed on worker 1: LookupError: no such method on worker 1"
    with pytest.raises(RunFailed, match=sentence) as caught:
        run_on_workers(failing, tmp_path / "stop")
    assert "in attach" in "".join(caught.value.__notes__)  # the worker's own traceback
    assert run.record.state() == "failed"
    status = json.loads((run.record.folder / "status.json").read_text())
    assert status["error"] == "LookupError: no such method on worker 1"


def test_a_sweep_of_runs_with_two_workers_each(gmt: Gmt, tmp_path: Path) -> None:
    """As many workers as there are cores: the trial that waits for them takes no share of one.

    Nothing of it listens on an interface that another machine reaches.
    """
    arguments = ("task=tiny", "method=sft,gmt", "tracking=none", "--config-dir", str(CONF))
    two_workers = ("resources.workers=2", "hydra.launcher.num_cpus=2")
    sockets: set[Listening] = set()
    with ThreadPoolExecutor(1) as beside:
        ended = beside.submit(gmt, "run", "-m", *arguments, *two_workers, timeout_s=400)
        while not ended.done():
            if (driver := driver_in(tmp_path)) is not None:
                with suppress(psutil.Error):  # what has ended
                    sockets |= listening(family_of(driver), Path("/nowhere"))
            time.sleep(0.2)
    done = ended.result()
    assert {each.where for each in sockets} == {"127.0.0.1"}
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 2 runs are done" in done.stdout
    two = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("gmt-results/runs/*/result.json")}
    one = gmt("run", "-m", *arguments, "record.root=one")
    assert one.returncode == 0, one.stdout + one.stderr
    for path in tmp_path.glob("one/runs/*/result.json"):
        assert two[path.parent.name]["weights_sha256"] == json.loads(path.read_text())["weights_sha256"]
    assert len(two) == 2
