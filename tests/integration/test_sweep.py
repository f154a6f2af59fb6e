"""A study from its start to its report, with real Ray, real sqlite MLflow, real training."""

import json
import re
import shutil
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from gmt.config_dir import config_dir
from gmt.errors import RunFailed
from gmt.studies.opened import planned
from gmt.studies.plan import PlannedRun
from gmt.studies.progress import progress
from gmt.studies.sweep import run_sweep
from gmt.tracking.settings import TrackingSettings
from tests.conftest import CONF, Gmt, gmt_in
from tests.processes import results_in

CPU = "system/cpu_utilization_percentage"
STUDY = ("study=tiny", "--config-dir", str(CONF))
ELSEWHERE = ("http://www.w3.org", "http://purl.org", "http://creativecommons.org")  # names in SVG, which nothing loads


def results(folder: Path) -> dict[str, dict[str, float]]:
    return {p.parent.name: json.loads(p.read_text()) for p in folder.glob("gmt-results/runs/*/result.json")}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny study, swept once for this file; no test changes it but for its report."""
    folder = tmp_path_factory.mktemp("swept")
    done = gmt_in(folder)("sweep", *STUDY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[8/8] done" in done.stdout
    assert "all 8 runs are done" in done.stdout
    return folder


@pytest.fixture(scope="module")
def report(swept: Path) -> Path:
    """Where the study's report is."""
    reported = gmt_in(swept)("report", *STUDY, "--dirty")
    assert reported.returncode == 0, reported.stderr
    return swept / "gmt-results/studies/tiny/report"


@pytest.fixture
def client(swept: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{swept}/gmt-results/mlflow.db")


def tracked(client: MlflowClient, kind: str) -> list[Run]:
    """The study's runs in MLflow of one kind, sweeps or runs."""
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`gmt.kind` = '{kind}'"))


def test_seeds_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan, _ = planned(["study=tiny"], str(CONF))
    begun: list[PlannedRun] = []
    untracked = TrackingSettings(uri=None, artifacts=None, experiment="tiny")
    with pytest.raises(RunFailed, match="8 of 8 runs are not done"):
        run_sweep(plan, untracked, lambda todo, _: begun.extend(todo), progress(), say=print, remedy="")
    assert [(each.run.seed, each.point.arm) for each in begun] == [
        *((1, arm) for arm in ("sft", "gmt", "gmt", "hft")),
        *((2, arm) for arm in ("gmt", "hft", "sft", "gmt")),  # no arm is always the first
    ]


def test_mlflow_has_every_run_below_the_sweep(swept: Path, client: MlflowClient) -> None:
    (parent,), children = tracked(client, "sweep"), tracked(client, "run")
    assert parent.info.status == "FINISHED"
    counts = {key: value for key, value in parent.data.metrics.items() if not key.startswith("mean/")}
    assert counts == {"runs/done": 8}
    assert len(children) == 8
    assert {run.data.tags["gmt.run_id"] for run in children} == set(results(swept))
    assert {run.info.status for run in children} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.params["seed"] for run in children} == {"1", "2"}


def test_a_run_in_mlflow_has_what_its_record_has(swept: Path, client: MlflowClient) -> None:
    measured = ("time/forward_backward_s", "time/mask_s", "time/optimizer_s", "mask/density", "train/tokens", CPU)
    for child in tracked(client, "run"):
        result = results(swept)[child.data.tags["gmt.run_id"]]
        assert child.data.metrics["result/forgetting"] == result["forgetting"]
        assert set(measured) <= set(child.data.metrics)
        steps = [metric.step for metric in client.get_metric_history(child.info.run_id, "train/loss")]
        assert steps == sorted(set(steps))
        artifacts = {file.path for file in client.list_artifacts(child.info.run_id)}
        assert {"config.json", "result.json", "environment.json", "answers_after.jsonl"} <= artifacts


def test_a_study_that_is_done_is_not_run_again(swept: Path) -> None:
    again = gmt_in(swept)("sweep", *STUDY)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    assert "8 done" in gmt_in(swept)("plan", *STUDY).stdout


def test_the_report_is_one_page_that_loads_nothing(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert page.count("<svg") == 5  # frontier, scores, costs, loss: too few steps for facts
    assert page.count("<script") == page.count("<script>") == 1  # the one that sorts tables
    for name in ELSEWHERE:
        page = page.replace(name, "")
    assert "http://" not in page
    assert "What this can't say" in page
    assert "tiny: target score of gmt against sft: " in page


def test_the_report_has_tables_and_figures_for_papers(report: Path) -> None:
    assert r"\toprule" in (report / "means.tex").read_text()
    assert (report / "target_tiny.pdf").read_bytes().startswith(b"%PDF")
    differences = (report / "differences.csv").read_text().splitlines()
    numbers = "difference,low,high,n,p,p_shared,p_welch,p_welch_shared,num_diverged,without_diverged,p_equivalent"
    assert differences[0] == f"arm,task,mask_ratio,{numbers},detectable,assumed_deviation,measure"


@pytest.mark.usefixtures("report")
def test_the_report_is_on_the_page_of_the_sweep(client: MlflowClient) -> None:
    (parent,) = tracked(client, "sweep")
    assert "report/index.html" in {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    description = parent.data.tags["mlflow.note.content"]
    assert "Does the machine work?" in description
    line = client.get_metric_history(parent.info.run_id, "mean/target/tiny/gmt")
    assert [metric.step for metric in line] == [50, 90]  # the mask ratio in per cent
    assert "- tiny: target score of gmt against sft: " in description
    images = [file.path for file in client.list_artifacts(parent.info.run_id, "images")]
    assert any("target" in path and path.endswith(".png") for path in images)


def test_a_run_is_shown(swept: Path) -> None:
    shown = gmt_in(swept)("show", next(iter(results(swept))))
    assert (shown.returncode, "moved fraction" in shown.stdout) == (0, True)


@pytest.fixture(scope="module")
def completed(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the tiny study's folder without the runs of seed 1, sweep in one process, and return the copy."""
    folder = tmp_path_factory.mktemp("completed")
    shutil.copytree(swept / "gmt-results", folder / "gmt-results")
    for path in folder.glob("gmt-results/runs/*/config.json"):
        if json.loads(path.read_text())["science"]["seed"] == 1:
            shutil.rmtree(path.parent)
    done = gmt_in(folder)("sweep", *STUDY, "hydra/launcher=basic")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 runs, 4 done, 4 to do" in done.stdout
    return folder


def test_runs_that_are_done_are_not_run_again_in_a_larger_study(swept: Path, completed: Path) -> None:
    assert "8 done, 4 to do" in gmt_in(swept)("plan", *STUDY, "seed=1,2,3").stdout
    before, after = results_in(swept / "gmt-results"), results_in(completed / "gmt-results")
    assert before.keys() == after.keys()
    assert len([id_ for id_, done_at in before.items() if after[id_] == done_at]) == 4  # copying keeps the times


def test_the_launcher_does_not_change_a_result(swept: Path, completed: Path) -> None:
    in_process, on_ray = results(completed), results(swept)
    assert len({result["weights_sha256"] for result in in_process.values()}) == 8
    for id_, result in in_process.items():
        assert result["weights_sha256"] == on_ray[id_]["weights_sha256"]


def test_one_run_that_diverges_is_recorded_and_the_others_finish(gmt: Gmt, tmp_path: Path) -> None:
    arguments = ("run", "-m", "task=tiny", "method=sft", "train.learning_rate=1e-3,1e30", "--config-dir", str(CONF))
    done = gmt(*arguments, "hydra/launcher=basic")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(results(tmp_path)) == 1
    failed = [
        p for p in tmp_path.glob("gmt-results/runs/*/status.json") if json.loads(p.read_text())["state"] == "diverged"
    ]
    assert len(failed) == 1
    assert json.loads(failed[0].read_text())["error_kind"] == "diverged"
    assert "Traceback" in (failed[0].parent / "error.txt").read_text()
    client = MlflowClient(f"sqlite:///{tmp_path}/gmt-results/mlflow.db")
    experiment = client.get_experiment_by_name("single-runs")
    assert experiment is not None
    statuses = [run.info.status for run in client.search_runs([experiment.experiment_id])]
    assert sorted(statuses) == ["FAILED", "FAILED", "FINISHED"]  # the failed run and its parent
    again = gmt(*arguments)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)  # it would diverge again


@pytest.mark.parametrize("launcher", ["basic", "ray_tune"])
def test_options_of_hydra_itself_work(gmt: Gmt, launcher: str) -> None:
    shown = gmt("run", "--cfg", "job", f"hydra/launcher={launcher}", "method.mask_ratio=0.25")
    assert shown.returncode == 0
    assert "mask_ratio: 0.25" in shown.stdout
    helped = gmt("run", "--help")
    assert helped.returncode == 0
    methods = {path.stem for path in (config_dir() / "method").glob("*.yaml")}
    _, _, of_methods = helped.stdout.partition("\n  method=gmt ")
    assert methods <= set(re.findall(r"\w+", of_methods.partition("\n  train=")[0]))
