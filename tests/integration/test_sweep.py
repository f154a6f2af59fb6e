"""A study from its start to its report, with real Ray, real sqlite MLflow, real training."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.conftest import CONF, Gmt

CPU = "system/cpu_utilization_percentage"
STUDY = ("study=tiny", "--config-dir", str(CONF))


def results(folder: Path) -> dict[str, dict[str, float]]:
    return {p.parent.name: json.loads(p.read_text()) for p in folder.glob("gmt-results/runs/*/result.json")}


def test_a_study_runs_is_tracked_reported_and_not_run_again(gmt: Gmt, tmp_path: Path) -> None:
    swept = gmt("sweep", *STUDY)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "[8/8] done" in swept.stdout
    assert "all 8 runs are done" in swept.stdout
    first = results(tmp_path)
    assert len(first) == 8

    client = MlflowClient(f"sqlite:///{tmp_path}/gmt-results/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if run.data.tags["gmt.kind"] == "sweep")
    children = [run for run in runs if run.data.tags["gmt.kind"] == "run"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"runs/done": 8}
    assert {run.data.tags["gmt.run_id"] for run in children} == set(first)
    for child in children:
        result = first[child.data.tags["gmt.run_id"]]
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.metrics["result/forgetting"] == result["forgetting"]
        assert child.data.params["seed"] in ("1", "2")
        history = client.get_metric_history(child.info.run_id, "train/loss")
        steps = [metric.step for metric in history]
        assert steps == sorted(set(steps))
        for name in ("time/forward_backward_s", "time/mask_s", "time/optimizer_s", "mask/density", "train/tokens", CPU):
            assert name in child.data.metrics
        artifacts = {file.path for file in client.list_artifacts(child.info.run_id)}
        assert {"config.json", "result.json", "environment.json", "answers_after.jsonl"} <= artifacts

    again = gmt("sweep", *STUDY)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    assert "8 done" in gmt("plan", *STUDY).stdout

    reported = gmt("report", *STUDY, "--dirty")
    assert reported.returncode == 0, reported.stderr
    page = (tmp_path / "gmt-results/studies/tiny/report/index.html").read_text()
    assert page.count("<svg") == 5  # scores, density, costs: too few steps for facts
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "What this can't say" in page
    assert "tiny: target score of gmt against sft: " in page
    folder = tmp_path / "gmt-results/studies/tiny/report"
    assert r"\toprule" in (folder / "means.tex").read_text()
    assert (folder / "target.pdf").read_bytes().startswith(b"%PDF")
    differences = (folder / "differences.csv").read_text().splitlines()
    assert differences[0] == "arm,task,mask_ratio,difference,low,high,n,p,p_holm,measure"
    assert {f.path for f in client.list_artifacts(parent.info.run_id, "report")} >= {"report/index.html"}
    described = client.get_run(parent.info.run_id).data.tags
    assert "Does the machine work?" in described["mlflow.note.content"]
    assert "- tiny: target score of gmt against sft: " in described["mlflow.note.content"]
    images = [f.path for f in client.list_artifacts(parent.info.run_id, "images")]
    assert any("target" in path and path.endswith(".png") for path in images)

    one_more = gmt("sweep", *STUDY, "seed=1,3", "hydra/launcher=basic")
    assert one_more.returncode == 0, one_more.stdout + one_more.stderr
    assert "8 runs, 4 done, 4 to do" in one_more.stdout
    assert {id_: r for id_, r in results(tmp_path).items() if id_ in first} == first

    shown = gmt("show", next(iter(first)))
    assert (shown.returncode, "moved fraction" in shown.stdout) == (0, True)


def test_the_launcher_does_not_change_a_result(gmt: Gmt, tmp_path: Path) -> None:
    hashes = []
    for number, launcher in enumerate(("basic", "ray_tune")):
        root = f"record.root=r{number}"
        done = gmt("sweep", *STUDY, "seed=1", root, f"hydra/launcher={launcher}", "tracking=none")
        assert done.returncode == 0, done.stdout + done.stderr
        found = (tmp_path / f"r{number}").glob("runs/*/result.json")
        hashes.append({p.parent.name: json.loads(p.read_text())["weights_sha256"] for p in found})
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0].values())) == 4


def test_one_run_that_diverges_is_recorded_and_the_others_finish(gmt: Gmt, tmp_path: Path) -> None:
    done = gmt("run", "-m", "task=tiny", "method=sft", "train.learning_rate=1e-3,1e30", "--config-dir", str(CONF))
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
    again = gmt("run", "-m", "task=tiny", "method=sft", "train.learning_rate=1e-3,1e30", "--config-dir", str(CONF))
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)  # it would diverge again


@pytest.mark.parametrize("launcher", ["basic", "ray_tune"])
def test_options_of_hydra_itself_work(gmt: Gmt, launcher: str) -> None:
    shown = gmt("run", "--cfg", "job", f"hydra/launcher={launcher}", "method.mask_ratio=0.25")
    assert shown.returncode == 0
    assert "mask_ratio: 0.25" in shown.stdout
    helped = gmt("run", "--help")
    assert helped.returncode == 0
    assert "method: gasdu, gmt, gmt_update, hft, rmt, sft, " in helped.stdout
