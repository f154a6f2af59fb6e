"""MLflow as a view: made from records alone, each value once, on a real sqlite store."""

import json
from pathlib import Path

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from gmt.errors import UserError
from gmt.records.identity import run_id
from gmt.records.record import RunRecord
from gmt.tracking.mlflow_view import MlflowView
from gmt.tracking.settings import TrackingSettings
from gmt.tracking.views import LONGEST_DESCRIPTION

pytestmark = pytest.mark.heavy

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


def test_the_longest_description_is_that_of_mlflow() -> None:
    assert LONGEST_DESCRIPTION == MAX_TAG_VAL_LENGTH


def test_each_value_is_written_once_by_views_that_come_and_go(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    for step in range(1, 4):
        record.append_metrics(step, {"train/loss": float(step)})
        view = MlflowView(settings_for(tmp_path))  # as after a kill of the driver: it knows nothing of the last one
        for _ in range(2):
            with record.locked():
                view.sync(record, name="gmt seed=1", parent=None, tags={}, final=False)
    assert history(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_the_error_without_a_server_shows_the_connections_message(tmp_path: Path) -> None:
    nobody = TrackingSettings(uri="http://127.0.0.1:1", artifacts=str(tmp_path), experiment="e")
    with pytest.raises(UserError, match=r"that answers, got http://127.0.0.1:1: .*Connection refused") as raised:
        MlflowView(nobody)
    assert "retries" not in str(raised.value)


def test_steps_that_a_resumed_run_repeats_are_the_records_alone(tmp_path: Path) -> None:
    record, view = new_record(tmp_path), MlflowView(settings_for(tmp_path))

    def sync(by: MlflowView) -> None:
        with record.locked():
            by.sync(record, name="r", parent=None, tags={}, final=False)

    for view_then in (view, MlflowView(settings_for(tmp_path))):  # who followed the run, and somebody new
        for step in (1, 2, 3):
            record.append_metrics(step, {"train/loss": float(step), "time/mask": 1.0})
        sync(view)
        view.release(record)
        record.keep_metrics_until(1)
        record.append_metrics(2, {"train/loss": 2.5})
        sync(view_then)
        assert history(tmp_path) == [(1, 1.0), (2, 2.5)]
        view_then.release(record)
        record.keep_metrics_until(0)
    client = MlflowClient(f"sqlite:///{tmp_path}/m.db")
    (only,) = client.search_runs(["1"], f"tags.`gmt.run_id` = '{record.id}'", ViewType.ALL)
    assert [m.step for m in client.get_metric_history(only.info.run_id, "time/mask")] == [1]


def test_a_run_that_failed_and_was_gone_on_with_is_not_shown_as_failed(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    record.set_status("failed", error="ValueError: because", ended_at=1.0)
    MlflowView(settings_for(tmp_path)).sync(record, name="r", parent=None, tags={}, final=True)
    record.set_status("interrupted", error=None, ended_at=None)
    MlflowView(settings_for(tmp_path)).sync(record, name="r", parent=None, tags={}, final=True)
    (run,) = MlflowClient(f"sqlite:///{tmp_path}/m.db").search_runs(["1"])
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("KILLED", "")
    assert run.info.end_time > 1_000_000


def test_an_experiment_that_was_deleted_is_restored(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    record.append_metrics(1, {"train/loss": 1.0})
    for _ in range(2):
        MlflowView(settings_for(tmp_path)).sync(record, name="r", parent=None, tags={}, final=False)
        assert history(tmp_path) == [(1, 1.0)]
        MlflowClient(f"sqlite:///{tmp_path}/m.db").delete_experiment("1")


def test_a_database_in_no_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = TrackingSettings(uri=f"sqlite:///{tmp_path}/file/m.db", artifacts=None, experiment="e")
    with pytest.raises(UserError, match=r"tracking.uri must be in a folder that can be made, got sqlite:///"):
        MlflowView(nowhere)


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


def test_the_prepared_view_and_the_means_are_in_the_store_once(tmp_path: Path) -> None:
    view = MlflowView(settings_for(tmp_path))
    parent = view.open_parent("study", "identity", "", {})
    for _ in range(2):
        view.prepare(["gmt.arm", "gmt.rank"], "What if?")
        view.log_means("identity", {"mean/target/t/lora": {2: 0.5, 8: 0.75}})
    client = MlflowClient(f"sqlite:///{tmp_path}/m.db")
    assert [(m.step, m.value) for m in client.get_metric_history(parent, "mean/target/t/lora")] == [(2, 0.5), (8, 0.75)]
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    state = json.loads(experiment.tags["mlflow.sharedViewState.gmt"])
    assert [key["groupByData"] for key in state["groupBy"]["groupByKeys"]] == ["gmt.choice"]
    assert {"tags.`gmt.arm`", "tags.`gmt.rank`"} < set(state["selectedColumns"])
    runs, result = view.pages("identity")
    assert runs == f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=gmt&workflowType=machine_learning"
    assert f"/runs/{parent}?" in result
