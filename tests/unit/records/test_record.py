"""The run record: written whole or not at all, locked by the process at work."""

import json
import multiprocessing
from pathlib import Path

import pytest

from gmt.errors import UserError
from gmt.records.identity import run_id
from gmt.records.record import NOWHERE, RecordBusy, RunRecord

SCIENCE = {"model": {"name": "m"}, "seed": 1}


def new_record(tmp_path: Path) -> RunRecord:
    record = RunRecord(tmp_path, run_id(SCIENCE))
    record.create(SCIENCE, {"seed": 1})
    return record


def test_states_follow_what_happened(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, run_id(SCIENCE))
    assert record.state() == "to do"
    record.create(SCIENCE, {})
    assert record.state() == "interrupted"
    with record.locked():
        record.set_status("running")
        assert RunRecord(tmp_path, record.id).state() == "running"
    assert record.state() == "interrupted"
    record.set_status("failed", error="because")
    assert record.state() == "failed"
    record.set_status("done", error=None)
    assert (record.state(), record.status()["error"]) == ("done", None)


def test_a_changed_config_no_longer_matches_its_id(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    path = record.folder / "config.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(UserError, match="no longer hashes to the run id"):
        record.check()


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    (record.folder / "status.json").write_text('{"state": ')
    with pytest.raises(UserError, match=r"status\.json can't be read"):
        record.state()


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    record.write("result.json", {"a": 1})
    with pytest.raises(TypeError):
        record.write_lines("result.json", [{"a": object()}])
    assert record.read("result.json") == {"a": 1}
    assert {p.name for p in record.folder.iterdir()} == {"config.json", "result.json"}


def test_metrics_come_back_from_an_offset_without_a_torn_line(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    assert record.metrics() == ([], NOWHERE)
    record.append_metrics(1, {"loss": 2.0})
    rows, position = record.metrics()
    record.append_metrics(2, {"loss": 1.0})
    with (record.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    more, end = record.metrics(position)
    assert ([r["step"] for r in rows], [r["step"] for r in more]) == ([1], [2])
    assert record.metrics(end) == ([], end)


def test_a_resumed_run_drops_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    for step in (0, 10, 20, 30):
        record.append_metrics(step, {"loss": 1.0})
    record.keep_metrics_until(20)
    assert [row["step"] for row in record.metrics()[0]] == [0, 10, 20]


def test_a_reader_starts_again_when_a_resumed_run_writes_the_metrics_anew(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    for step in (10, 20, 30):
        record.append_metrics(step, {"loss": 1.0})
    _, position = record.metrics()
    record.keep_metrics_until(10)
    for step in (20, 30, 40):
        record.append_metrics(step, {"a longer name": 1.0})
    rows, _ = record.metrics(position)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]


def _hold(folder: str, id_: str, ready: "multiprocessing.synchronize.Event") -> None:
    with RunRecord(Path(folder), id_).locked():
        ready.set()
        multiprocessing.Event().wait(60)


@pytest.mark.heavy
def test_two_processes_never_work_on_one_run_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), record.id, ready))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(RecordBusy), record.locked():
            pass
    finally:
        other.kill()
        other.join()
    with record.locked():
        assert json.loads((record.folder / "config.json").read_text())["run_id"] == record.id


def test_an_attempt_that_had_not_begun_has_no_end(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, "a" * 16)
    record.folder.mkdir()
    record.set_status("interrupted", started_at=10.0, ended_at=20.0)
    record.note_failure("interrupted", "infrastructure", "its worker died while it prepared")
    assert record.status()["ended_at"] == 20.0
    record.set_status("running", started_at=30.0)
    record.note_failure("interrupted", "infrastructure", "its worker died")
    assert record.status()["ended_at"] > 30.0
    assert len(record.status()["failures"]) == 2


@pytest.mark.parametrize("key", ["attempts", "started_at", "ended_at", "updated_at", "seconds_before"])
@pytest.mark.parametrize("value", ["x", [], True])
def test_a_number_in_status_json_that_is_none_is_named(tmp_path: Path, key: str, value: object) -> None:
    record = RunRecord(tmp_path, "a" * 16)
    record.folder.mkdir()
    record.set_status("interrupted", **{key: None})
    record.write("status.json", record.read("status.json") | {key: value})
    with pytest.raises(UserError, match=rf"status\.json must hold a number or null as {key}, got .*; delete the run's"):
        record.status()
