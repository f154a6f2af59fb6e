"""`gmt submit` through Ray Jobs, on a real Ray cluster of two nodes with its dashboard and its token."""

import importlib.util
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import CONF, Gmt
from tests.processes import name_of, results_in, wait_for
from tests.ray_nodes import Nodes

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("aiohttp_cors") is None, reason="needs ray[default]"),
]
STUDY = ("study=tiny", "tracking.experiment=submitted", "--config-dir", str(CONF))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), head_cpus=1, with_dashboard=True)
    try:
        nodes.add()
        wait_for(lambda: num_nodes(nodes.dashboard) == 2, 90)
        yield nodes.dashboard
    finally:
        nodes.end()


def num_nodes(url: str) -> int:
    """How many nodes have an agent that takes jobs."""
    request = urllib.request.Request(f"{url}/nodes?view=summary", headers={"Authorization": f"Bearer {token()}"})
    try:
        found = json.load(urllib.request.urlopen(request, timeout=5))["data"]["summary"]
    except OSError:
        return 0
    return sum("agent" in node and node["raylet"].get("state") == "ALIVE" for node in found)


def token() -> str:
    return Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()


def drivers(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "sweep" in words and f"record.root={root}" in words:
            found.append(process)
    return found


def submitted(gmt: Gmt, address: str, root: Path, *more: str) -> str:
    done = gmt("submit", *STUDY, "cluster=ray", f"cluster.address={address}", f"record.root={root}", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    job = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("submitted as"))
    assert f"gmt logs {job} cluster=ray cluster.address={address} --follow" in done.stdout
    return job


def test_a_submitted_study_runs_and_its_token_is_nowhere_to_be_seen(gmt: Gmt, address: str, tmp_path: Path) -> None:
    on = ("cluster=ray", f"cluster.address={address}")
    root = tmp_path / "shared"
    job = submitted(gmt, address, root, "seed=1")
    wait_for(lambda: bool(drivers(root)), 60)
    arguments = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [words for words in arguments if token() in words]
    followed = gmt("logs", job, *on, "--follow")
    assert followed.returncode == 0, followed.stderr
    assert "study tiny: all 4 runs are done" in followed.stdout
    assert gmt("logs", job, *on).stdout.endswith(followed.stdout[-200:])
    listed = gmt("jobs", *on)
    assert [job, "SUCCEEDED"] == [listed.stdout.splitlines()[1].split()[i] for i in (0, 2)]
    assert len(results_in(root)) == 4
    written = [path for folder in (root, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert (root / "mlflow.db") in written
    assert not [path for path in written if token().encode() in path.read_bytes()]
    assert token() not in followed.stdout + listed.stdout
    environments = [json.loads(path.read_text()) for path in root.glob("runs/*/environment.json")]
    assert [environment["commit"] for environment in environments] == [None] * 4  # the code came with the job

    again = gmt("submit", *STUDY, *on, f"record.root={root}", "seed=1")
    assert again.returncode == 0
    assert "4 of them done" in again.stdout
    assert "nothing to do" in again.stdout


def test_a_sweep_that_is_under_way_is_refused_and_one_that_was_preempted_goes_on(
    gmt: Gmt, address: str, tmp_path: Path
) -> None:
    on = ("cluster=ray", f"cluster.address={address}")
    root = tmp_path / "shared"
    first = submitted(gmt, address, root)
    second = gmt("submit", *STUDY, *on, f"record.root={root}")
    assert second.returncode == 2
    assert f"the same sweep is under way as job {first}" in second.stderr
    wait_for(lambda: len(results_in(root)) >= 1, 120)
    (driver,) = [process for process in drivers(root) if name_of(process).startswith("python")]
    driver.kill()  # as a spot machine goes away
    before = results_in(root)
    assert 0 < len(before) < 8
    wait_for(lambda: "FAILED" in gmt("jobs", *on).stdout, 60)

    resubmitted = submitted(gmt, address, root)
    assert resubmitted == first.removesuffix("-1") + "-2"
    followed = gmt("logs", resubmitted, *on, "--follow")
    assert "all 8 runs are done" in followed.stdout
    assert f"study tiny: 8 runs, {len(before)} done" in followed.stdout
    assert before.items() <= results_in(root).items()


def test_a_stopped_sweep_ends_as_with_ctrl_c(gmt: Gmt, address: str, tmp_path: Path) -> None:
    on = ("cluster=ray", f"cluster.address={address}")
    root = tmp_path / "shared"
    job = submitted(gmt, address, root, "seed=3,4")
    wait_for(lambda: len(results_in(root)) >= 1, 120)
    stopped = gmt("stop", job, *on)
    assert stopped.returncode == 0, stopped.stderr
    assert f"stopped {job}" in stopped.stdout
    assert not drivers(root)
    assert "stopping: no further run starts" in gmt("logs", job, *on).stdout
    again = gmt("stop", job, *on)
    assert again.returncode == 2
    assert f"error: job {job} is not under way: it is STOPPED" in again.stderr


def test_a_sweep_names_a_run_that_fits_on_no_node(gmt: Gmt, address: str, tmp_path: Path) -> None:
    on = ("cluster=ray", f"cluster.address={address}")
    job = submitted(gmt, address, tmp_path / "shared", "resources.gpus=1")
    told = gmt("logs", job, *on, "--follow").stdout.splitlines()[-1]
    assert told.startswith("error: a run must fit")
    assert "resources.gpus=1; the cluster has" in told
    assert not list((tmp_path / "shared" / "runs").glob("*/status.json"))


def test_a_wrong_token_and_a_missing_token_have_different_errors(
    gmt: Gmt, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("submit", *STUDY, "cluster=ray", f"cluster.address={address}", f"record.root={tmp_path}/shared")
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    for got in ("another token", "no token"):
        done = gmt(*command)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: cluster.address {address} needs the cluster's token")
        assert done.stderr.endswith(f"got {got}\n")
        assert len(done.stderr.splitlines()) == 1
        assert "0" * 64 not in done.stdout + done.stderr
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)


def test_a_cluster_with_this_project_installed_is_asked_for_its_version(gmt: Gmt, address: str, tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text('#!/bin/sh\necho \'{"Python": "3.11.1", "Ray": "2.60.0", "gmt-lab": "0.0.7"}\'\n')
    other.chmod(0o755)
    on = ("cluster=ray", f"cluster.address={address}", "cluster.code=installed")
    before = gmt("jobs", "cluster=ray", f"cluster.address={address}").stdout
    for python, sentence in (
        (str(other), "must have gmt-lab 0.1.0 as the machine that submits, got 0.0.7"),
        ("/nowhere/python", "cluster.python must run on the cluster, got '/nowhere/python'"),
    ):
        done = gmt("submit", *STUDY, *on, f"cluster.python={python}", f"record.root={tmp_path}/shared")
        assert done.returncode == 2
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert gmt("jobs", "cluster=ray", f"cluster.address={address}").stdout == before


def test_a_job_that_is_not_there_is_named(gmt: Gmt, address: str) -> None:
    for command in ("logs", "stop"):
        done = gmt(command, "gmt-none-1", "cluster=ray", f"cluster.address={address}")
        assert done.returncode == 2
        assert "there is no job 'gmt-none-1'" in done.stderr
