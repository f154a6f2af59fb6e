"""MLflow as a view: made from records alone, each value once, on a real sqlite store."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from gmt.errors import UserError
from gmt.records.identity import run_id
from gmt.records.record import RunRecord
from gmt.tracking.mlflow_view import MlflowView
from gmt.tracking.settings import TrackingSettings

SCIENCE = {
    "model": {"name": "m"},
    "task": {"_target_": "a.Task", "name": "t"},
    "method": {"name": "gmt", "mask_ratio": 0.5},
    "seed": 1,
    "fingerprints": {"model": "f", "task": "g"},
}


def settings_for(folder: Path) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{folder}/m.db", artifacts=str(folder / "artifacts"), experiment="e")


def new_record(folder: Path) -> RunRecord:
    record = RunRecord(folder / "runs", run_id(SCIENCE))
    record.create(SCIENCE, {"seed": 1})
    record.set_status("running", attempts=1)
    return record


def history(folder: Path) -> list[tuple[int, float]]:
    client = MlflowClient(f"sqlite:///{folder}/m.db")
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    return [(m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, "train/loss")]


def test_each_value_is_written_once_by_views_that_come_and_go(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    for step in range(1, 4):
        record.append_metrics(step, {"train/loss": float(step)})
        view = MlflowView(settings_for(tmp_path))  # as after a kill of the driver: it knows nothing of the last one
        for _ in range(2):
            with record.at_work():
                view.sync(record, name="gmt seed=1", parent=None, tags={}, final=False)
    assert history(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_lost_store_is_made_again_from_the_records(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    record.append_metrics(1, {"train/loss": 1.0})
    MlflowView(settings_for(tmp_path)).sync(record, name="r", parent=None, tags={}, final=False)
    other = tmp_path / "other"
    other.mkdir()
    MlflowView(settings_for(other)).sync(record, name="r", parent=None, tags={}, final=False)
    assert history(other) == history(tmp_path) == [(1, 1.0)]


def test_a_failed_run_carries_its_error(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    (record.folder / "error.txt").write_text("Traceback: because")
    record.set_status("failed", error="ValueError: because", ended_at=1.0)
    MlflowView(settings_for(tmp_path)).sync(record, name="r", parent=None, tags={"gmt.arm": "gmt"}, final=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/m.db")
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id])[0]
    assert run.info.status == "FAILED"
    assert "because" in run.data.tags["mlflow.note.content"]
    assert (run.data.tags["gmt.arm"], run.data.params["method.mask_ratio"]) == ("gmt", "0.5")
    assert "error.txt" in {file.path for file in client.list_artifacts(run.info.run_id)}


def test_a_server_that_does_not_answer_is_one_sentence_without_its_password() -> None:
    uri = "http://user:secret@127.0.0.1:9"
    with pytest.raises(UserError, match="a store that answers") as caught:
        MlflowView(TrackingSettings(uri=uri, artifacts=None, experiment="e"))
    assert "secret" not in str(caught.value)


def test_an_interrupted_run_that_is_resumed_is_followed_to_its_end(tmp_path: Path) -> None:
    record = new_record(tmp_path)  # says "running", and nobody holds its lock: as after a kill
    view = MlflowView(settings_for(tmp_path))
    view.sync(record, name="r", parent=None, tags={}, final=False)
    record.append_metrics(1, {"train/loss": 1.0})
    view.sync(record, name="r", parent=None, tags={}, final=True)
    assert history(tmp_path) == [(1, 1.0)]
