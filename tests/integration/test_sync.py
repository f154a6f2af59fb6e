"""`gmt sync` on a real sqlite store: a lost store is made again, and a second call changes nothing."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from gmt.commands.report import report
from gmt.commands.sync import sync
from gmt.errors import RunFailed, UserError
from gmt.records.record import RunRecord
from gmt.studies.plan import Plan
from gmt.tracking.mlflow_view import MlflowView
from tests.conftest import CONF, Gmt
from tests.finished import done_study
from tests.mlflow_server import assert_level


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The tiny study, done."""
    monkeypatch.chdir(tmp_path)
    plan = done_study()
    for each in plan.runs:
        for step in (10, 20):
            each.record.append_metrics(step, {"train/loss": 1 / step})
        each.record.finish()
    return plan


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/gmt-results/mlflow.db"


def records(plan: Plan) -> list[RunRecord]:
    return [each.record for each in plan.runs]


def test_a_lost_store_is_made_again_and_each_value_is_there_once(study: Plan, tmp_path: Path, gmt: Gmt) -> None:
    for number in range(3):
        if number == 1:
            for file in (tmp_path / "gmt-results").glob("mlflow.db*"):
                file.unlink()
        done = gmt("sync", "study=tiny", "--config-dir", str(CONF))
        assert (done.returncode, done.stdout) == (0, "MLflow holds 8 runs as the records do\n"), done.stderr
        copy = tmp_path / f"copy{number}.db"  # MLflow keeps a file open that it has once read
        with sqlite3.connect(tmp_path / "gmt-results/mlflow.db") as held, sqlite3.connect(copy) as copied:
            held.backup(copied)
        assert_level(f"sqlite:///{copy}", "tiny", records(study))


def test_a_run_of_many_values_is_written_in_batches_that_mlflow_takes(study: Plan, tmp_path: Path) -> None:
    each = study.runs[-1].record
    for step in range(30, 130):
        each.append_metrics(step, {f"mask/{i}": step * i for i in range(20)})
    each.finish()
    sync(["study=tiny"], str(CONF))
    assert_level(uri(tmp_path), "tiny", records(study))


def test_a_changed_record_is_failed_in_mlflow_and_its_values_stay(
    study: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sync(["study=tiny"], str(CONF))
    record = study.runs[0].record
    whole = {record.folder / name: (record.folder / name).read_bytes() for name in ("result.json", "metrics.jsonl")}
    client = MlflowClient(uri(tmp_path))
    held = json.loads(next(record.folder.glob("mlflow-*.json")).read_text())["mlflow_run_id"]
    values = client.get_run(held).data.metrics
    for path, content in whole.items():
        path.write_bytes(content.replace(b"0.5", b"0.7"))
    for _ in range(2):
        sync(["study=tiny"], str(CONF))
        run = client.get_run(held)
        assert (run.info.status, run.data.tags["gmt.state"], run.data.metrics) == ("FAILED", "changed", values)
        assert "does not match its digest" in run.data.tags["mlflow.note.content"]
        assert f"warning: run {record.id} was changed since it ended" in capsys.readouterr().out
    for path, content in whole.items():
        path.write_bytes(content)
    sync(["study=tiny"], str(CONF))
    assert_level(uri(tmp_path), "tiny", records(study))


def test_the_same_store_under_another_address_gets_no_second_run(study: Plan, tmp_path: Path) -> None:
    sync(["study=tiny"], str(CONF))
    database = tmp_path / "gmt-results/other.db"
    with sqlite3.connect(tmp_path / "gmt-results/mlflow.db") as held, sqlite3.connect(database) as copied:
        held.backup(copied)
    sync(["study=tiny", f"tracking.uri=sqlite:///{database}"], str(CONF))
    assert_level(f"sqlite:///{database}", "tiny", records(study))


def test_a_run_that_was_deleted_in_mlflow_is_there_again(study: Plan, tmp_path: Path) -> None:
    sync(["study=tiny"], str(CONF))
    client = MlflowClient(uri(tmp_path))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id], max_results=4):
        client.delete_run(run.info.run_id)
    sync(["study=tiny"], str(CONF))
    assert_level(uri(tmp_path), "tiny", records(study))


def parent_of(folder: Path) -> Run:
    client = MlflowClient(uri(folder))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`gmt.kind` = 'sweep'")
    return parent


def test_the_parent_keeps_what_was_reported_and_counts_once(study: Plan, tmp_path: Path) -> None:
    report(["study=tiny"], str(CONF), dirty=False, operations=False)
    assert_level(uri(tmp_path), "tiny", records(study))  # nothing had been tracked before
    for _ in range(2):
        sync(["study=tiny"], str(CONF))
    parent = parent_of(tmp_path)
    assert "Of 8 finished runs:\n\n- tiny: target score of gmt against sft" in parent.data.tags["mlflow.note.content"]
    history = MlflowClient(uri(tmp_path)).get_metric_history(parent.info.run_id, "runs/done")
    assert [metric.value for metric in history] == [8]


def test_the_parent_ends_though_a_run_is_refused(study: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: MlflowClient, *args: Any, **kwargs: Any) -> object:
        raise MlflowException("no")

    monkeypatch.setattr(MlflowClient, "log_batch", refused)
    with pytest.raises(RunFailed):
        sync(["study=tiny"], str(CONF))
    assert parent_of(tmp_path).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        *((state, "KILLED") for state in ("interrupted", "stopped", "to do")),
        *((state, "FAILED") for state in ("failed", "diverged")),
    ],
)
def test_the_parent_is_failed_if_a_run_failed_and_killed_if_runs_are_only_unfinished(
    study: Plan, tmp_path: Path, state: str, status: str
) -> None:
    record = study.runs[0].record
    if state == "to do":
        shutil.rmtree(record.folder)
    else:
        path = record.folder / "status.json"
        written = "running" if state == "interrupted" else state
        path.write_text(json.dumps(json.loads(path.read_text()) | {"state": written, "error": "none"}))
    assert study.states()[record.id] == state
    sync(["study=tiny"], str(CONF))
    assert parent_of(tmp_path).info.status == status


def test_values_that_the_store_has_are_not_written_again(study: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(["study=tiny"], str(CONF))
    written: list[str] = []
    monkeypatch.setattr(MlflowClient, "log_batch", lambda self, run_id, **_: written.append(run_id))
    sync(["study=tiny"], str(CONF))
    assert written == []


def test_an_answer_that_was_lost_makes_no_second_run(
    study: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_run
    lost: list[object] = []

    def unheard(self: MlflowClient, *args: Any, **kwargs: Any) -> object:
        made = create(self, *args, **kwargs)
        if "gmt.run_id" in kwargs["tags"] and len(lost) < 3:
            lost.append(made)
            raise ConnectionError("the answer was lost")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", unheard)
    expected = r"MLflow lacks values of 3 of 8 runs: MLflow refuses .* \(the answer was lost\)"
    with pytest.raises(RunFailed, match=expected):
        sync(["study=tiny"], str(CONF))
    sync(["study=tiny"], str(CONF))
    assert_level(uri(tmp_path), "tiny", records(study))


def test_what_a_broken_call_did_not_write_is_written_by_the_next(
    study: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = MlflowClient.log_batch, iter(range(1000))

    def fails_twice(self: MlflowClient, *args: Any, **kwargs: Any) -> object:
        number = next(calls)
        if number == 0:
            raise ConnectionError("before it was written")
        done = write(self, *args, **kwargs)
        if number == 1:
            raise ConnectionError("after it was written")
        return done

    monkeypatch.setattr(MlflowClient, "log_batch", fails_twice)
    with pytest.raises(RunFailed):
        sync(["study=tiny"], str(CONF))
    sync(["study=tiny"], str(CONF))
    assert_level(uri(tmp_path), "tiny", records(study))


def test_a_store_that_stops_answering_is_one_sentence(study: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: MlflowClient, *args: Any, **kwargs: Any) -> object:
        raise ConnectionError("gone")

    monkeypatch.setattr(MlflowClient, "log_batch", gone)
    monkeypatch.setattr(MlflowView, "answers", lambda self: False)
    with pytest.raises(UserError, match=r"MLflow stopped answering at sft s1 .*; sync again"):
        sync(["study=tiny"], str(CONF))


def test_single_runs_are_named_by_their_ids(study: Plan, tmp_path: Path) -> None:
    one = study.runs[0].record
    sync([one.id[:8], "tracking.experiment=some"], None)
    assert_level(uri(tmp_path), "some", [one])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "gmt sync needs study=NAME, or the ids of single runs"),
        (["study=tiny", "0123"], "takes a study or single runs, got both study=... and 0123"),
        (["study=tiny", "tracking=none"], "gmt sync needs tracking.uri, got null"),
        (["study=tiny", "record.root=elsewhere"], "study tiny has no run record yet"),
        (["ffffff"], "no run below .* has an id that begins with 'ffffff'"),
    ],
)
def test_what_cannot_be_synced_is_one_sentence(study: Plan, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        sync(arguments, str(CONF))
