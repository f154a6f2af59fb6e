"""A record that is done says what its files were: whatever changes in them is seen, and nothing is done over it."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gmt_analysis.report import write_report
from gmt_analysis.results import Results

from gmt.axis import Axis
from gmt.commands.show import show
from gmt.composition import Composer, hydra_on
from gmt.errors import RunFailed, UserError
from gmt.records.derived import contradiction_in, contradiction_of_answers
from gmt.records.digests import LARGE
from gmt.records.record import RunRecord
from gmt.runs.execute import execute
from gmt.studies.estimate import estimate
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.multirun import by_overrides
from gmt.studies.plan import Plan, changes
from gmt.studies.sweep import run_sweep
from gmt.tracking.series import read_series
from gmt.tracking.settings import TrackingSettings
from gmt.tracking.table import left_out, read_table
from tests.finished import finish, plan_of

FILES = (
    *("config.json", "environment.json", "before.json", "result.json", "operations.json"),
    *LARGE,
)
ANSWERS = [{"part": "target", "suite": "sums", "prompt": "1 + 1", "answer": "2", "score": 1.0}] * 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A study of two runs with all that a record may hold."""
    plan = plan_of(tmp_path_factory.mktemp("made"), {"sft": {"method": "sft"}}, [1, 2])
    for number, each in enumerate(plan.runs):
        finish(each, 0.5 + number / 10)
        result, record = each.record.read("result.json"), each.record
        for name in ("target", "source"):
            result["before"][name] |= {"sums": result["before"][name]["mean"]}
            result["after"][name] |= {"sums": result["after"][name]["mean"]}
            result["metrics"]["after"][f"eval/{name}_mean"] = result["after"][name]["mean"]
        record.write("result.json", result)
        record.write("before.json", {"scores": result["before"], "metrics": {}})
        record.append_metrics(1, {"mask/overlap": 0.5})
        for when in ("before", "after"):
            record.write_lines(f"answers_{when}.jsonl", ANSWERS)
        record.write_lines("selection.jsonl", [{"index": 0, "chosen": True, "score": 0.5}])
        record.finish()
        with record.locked():
            record.write_later("operations.json", '{"step_flops": 1}\n')
    return plan


@pytest.fixture
def plan(made: Plan) -> Any:
    """The same; its files are as they were after the test."""
    files = {path: path.read_bytes() for each in made.runs for path in each.record.folder.iterdir() if path.is_file()}
    yield made
    for each in made.runs:
        for path in set(each.record.folder.iterdir()) - files.keys():
            path.unlink()
    for path, content in files.items():
        path.write_bytes(content)


def edit(record: RunRecord, change: Callable[[dict[str, Any]], object], *, forged: bool = False) -> None:
    """Edit result.json; where it is forged, its digest too."""
    result = record.read("result.json")
    change(result)
    record.write("result.json", result)
    if forged:
        record.finish()


def table_of(plan: Plan) -> Any:
    return read_table(((p.point.arm, p.point.label, p.record) for p in plan.runs), axis=Axis())


@pytest.mark.parametrize("name", FILES)
def test_any_one_changed_byte_is_seen(plan: Plan, name: str) -> None:
    record = plan.runs[0].record
    path = record.folder / name
    whole, chosen = path.read_bytes(), random.Random(name)
    assert record.change(also=LARGE) is None
    places = {0, len(whole) - 1, *(chosen.randrange(len(whole)) for _ in range(20))}
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(changed)
        assert f"{name} does not match its digest" in str(record.change(also=LARGE))
        assert record.state(also=LARGE) == "changed"
        assert record.state() == ("done" if name in LARGE else "changed")
    path.write_bytes(whole)
    assert record.state(also=LARGE) == "done"


@pytest.mark.parametrize("name", FILES)
def test_a_half_synced_copy_is_seen_without_reading_large_files(plan: Plan, name: str) -> None:
    record = plan.runs[0].record
    path = record.folder / name
    path.write_bytes(path.read_bytes()[:-1])
    assert record.state() == "changed"
    path.unlink()
    is_extra = name == "operations.json"
    assert "is missing" in str(record.change()) or is_extra or name == "config.json"
    assert record.state() == ("done" if is_extra else "to do" if name == "config.json" else "changed")
    path.mkdir()
    assert name == "config.json" or "can't be read (Is a directory)" in str(record.change()) or name in LARGE
    path.rmdir()


def test_a_file_that_the_run_did_not_write_is_seen(plan: Plan) -> None:
    record = plan.runs[0].record
    status = record.status()
    del status["digests"]["operations.json"]
    record.write("status.json", status)
    assert "operations.json has no digest" in str(record.change())


@pytest.mark.parametrize("digests", [[], "x", {"result.json": "x"}, {"result.json": []}, {"result.json": [1]}])
def test_invalid_digests_count_as_a_change(plan: Plan, digests: object) -> None:
    record = plan.runs[0].record
    record.write("status.json", record.status() | {"digests": digests})
    assert record.state() == "changed"


def test_a_changed_run_is_in_no_mean_and_is_named(plan: Plan) -> None:
    assert table_of(plan)["target_after"].tolist() == [0.5, 0.6]
    first = plan.runs[0].record
    edit(first, lambda result: result["after"]["target"].update(mean=0.99, sums=0.99))
    table = table_of(plan)
    assert table["state"].tolist() == ["changed", "done"]
    assert table["target_after"].dropna().tolist() == [0.6]
    assert left_out(table) == ["1 of 2 runs are left out of all numbers here: 1 changed (sft seed=1)."]
    told = (
        f"sft seed=1: run {first.id} was changed since it ended: result.json does not match its digest in status.json"
    )
    remedy = f"restore the file, or delete {first.folder} to run it anew"
    assert all(words in table["error"][0] for words in ("result.json does not match its digest", remedy))
    (sentence,) = changes(plan, plan.states())
    assert told in sentence
    assert remedy in sentence


def test_the_report_and_the_terminal_say_it(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmt_analysis.report.as_svg", lambda figure: "")  # figures take seconds, and show the same
    monkeypatch.setattr("gmt_analysis.report.as_pdf", lambda figure: b"")
    first, second = (planned.record for planned in plan.runs)
    edit(first, lambda result: result["after"]["target"].update(mean=0.99, sums=0.99))
    status = second.status()
    del status["digests"]
    second.write("status.json", status)
    report = write_report(plan)
    page = report.files[0].read_text()
    told = (
        f"sft seed=1: run {first.id} was changed since it ended: result.json does not match its digest in status.json"
    )
    assert len(report.results.done) == 1
    missing, changed = report.results.warnings
    assert "1 changed (sft seed=1)" in missing
    assert told in changed
    assert told in page
    assert "1 changed (sft seed=1)" in page
    assert "99.0" not in page
    assert "1 run was recorded before records held digests" in page
    edit(second, lambda result: result.update(forgetting=0.7))
    with pytest.raises(
        UserError, match=r"no finished run with an unchanged record to report on\n.*\n.*forgetting is 0\.7"
    ):
        Results(plan)


@pytest.mark.parametrize("name", ["metrics.jsonl", "environment.json"])
def test_what_a_report_reads_is_hashed(plan: Plan, name: str) -> None:
    path = plan.runs[0].record.folder / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1"))
    assert table_of(plan)["state"].tolist() == ["changed", "done"]
    assert len(read_series([("a", "a", p.record) for p in plan.runs], ["mask/overlap"], axis=Axis())) == 1


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "forgetting": lambda result: result.update(forgetting=result["forgetting"] + 1e-6),
    "the mean of target before": lambda result: result["before"]["target"].update(mean=0.2),
    "the mean of source after": lambda result: result["after"]["source"].update(mean=0.2),
    "the mean of target after": lambda result: result["after"]["target"].update(sums=0.2),
    "eval/target_mean after": lambda result: result["metrics"]["after"].update({"eval/target_mean": 0.2}),
    "the score of source mean before": lambda result: (
        result["before"]["source"].update(mean=1.0, sums=1.0),
        result.update(forgetting=1.0 - result["after"]["source"]["mean"]),
    ),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_number_that_does_not_follow_from_its_scores_is_seen(plan: Plan, what: str) -> None:
    assert contradiction_in(plan.runs[0].record, plan.runs[0].record.result()) is None
    edit(plan.runs[0].record, CONTRADICTIONS[what], forged=True)
    table = table_of(plan)
    assert table["state"].tolist() == ["changed", "done"]
    assert f": {what}" in table["error"][0]


def test_scores_follow_from_answers() -> None:
    task = {"_target_": "gmt.tasks.reasoning_gym.ReasoningGymTask", "target": {"sums": {}}}
    assert contradiction_of_answers(task, {"target": {"sums": 1.0}}, ANSWERS) is None
    wrong = [*ANSWERS[1:], ANSWERS[0] | {"score": 0.9}]
    assert contradiction_of_answers(task, {"target": {"sums": 0.75}}, wrong) is None
    told = contradiction_of_answers(task, {"target": {"sums": 1.0}}, wrong)
    assert told == "the score of target sums is 1.0 in result.json, but its answers give 0.75"
    elsewhere = {"_target_": "gmt.x", "target": {"sums": {"_target_": "mine.Benchmark"}}}
    assert contradiction_of_answers(elsewhere, {"target": {"sums": 1.0}}, wrong) is None
    lm_eval = [row | {"task": "gsm8k"} for row in wrong]
    assert contradiction_of_answers(task, {"target": {"sums": 1.0}}, lm_eval) is None


def test_nothing_is_done_over_a_changed_record(plan: Plan) -> None:
    planned = plan.runs[0]
    edit(planned.record, lambda result: result.update(forgetting=0.0))
    before = {path: path.read_bytes() for path in planned.record.folder.iterdir() if path.name != "lock"}
    with pytest.raises(UserError, match=r"was changed since it ended: result\.json .* to run it anew"):
        execute(planned.run)
    assert {path: path.read_bytes() for path in before} == before


def test_a_sweep_passes_over_a_changed_run_and_fails(plan: Plan) -> None:
    edit(plan.runs[0].record, lambda result: result.update(forgetting=0.0))
    lines: list[str] = []
    launch = by_overrides(lambda jobs: pytest.fail(f"{jobs} were started"))
    nowhere = TrackingSettings(uri=None, artifacts="x", experiment="x")
    with pytest.raises(RunFailed, match=r"sft seed=1: run \w+ was changed since it ended"):
        run_sweep(plan, nowhere, launch, None, say=lines.append, remedy="")  # type: ignore[arg-type]
    assert "nothing to do" in lines
    assert estimate(plan, plan.states(), num_gpus=0).num_left == 0


def test_a_kill_before_the_status_leaves_a_run_that_goes_on(plan: Plan) -> None:
    record = plan.runs[0].record
    status = record.status()
    for key in ("digests", "ended_at"):
        status.pop(key)
    record.write("status.json", status | {"state": "running"})
    assert record.state() == "interrupted"
    assert table_of(plan)["state"].tolist() == ["interrupted", "done"]


def test_a_kill_between_a_later_file_and_its_digest_changes_nothing(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = plan.runs[0].record
    whole = (record.folder / "operations.json").read_bytes()

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == "operations.json":
            raise KeyboardInterrupt
        os.replace(source, target)

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                record.write_later("operations.json", '{"step_flops": 2}\n')
        assert (record.folder / "operations.json").read_bytes() == whole
        assert record.state() == "done"
    record.write_later("operations.json", '{"step_flops": 2}\n')
    assert record.state() == "done"
    assert record.read("operations.json") == {"step_flops": 2}


def test_a_record_of_before_digests_counts_and_says_so(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    record = plan.runs[0].record
    status = record.status()
    del status["digests"]
    record.write("status.json", status)
    assert table_of(plan)["state"].tolist() == ["done", "done"]
    assert Results(plan).unverified
    show(record.id, [f"record.root={record.folder.parents[1]}"], None, brief=True)
    assert "this record is older than digests" in capsys.readouterr().out


def test_a_changed_trial_chooses_nothing(tmp_path: Path) -> None:
    overrides = {"seed": 9, "task.data_seed": 9}
    tuning = {"setting": "train.learning_rate", "low": 1e-4, "high": 1e-2, "runs": 2, "sampler": "grid"}
    study = StudySettings(
        name="made",
        question="?",
        shared={"seed": [1]},
        arms={"sft": {"method": "sft"}},
        tuning=tuning | {"overrides": overrides},
    )
    with hydra_on(None):
        first = make_plan(Composer(), study, {"record.root": [str(tmp_path)]})
        for number, each in enumerate(first.runs):
            finish(each, 0.5 + number / 10)
        best = make_plan(Composer(), study, {"record.root": [str(tmp_path)]}).tuned[0].best
        edit(first.runs[0].record, lambda result: result["after"]["target"].update(mean=0.9))
        after = make_plan(Composer(), study, {"record.root": [str(tmp_path)]})
    assert best == 1e-2
    assert (after.tuned[0].best, after.tuned[0].num_done) == (None, 1)
    assert json.loads((first.runs[0].record.folder / "status.json").read_text())["state"] == "done"
