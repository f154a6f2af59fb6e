"""`gmt diagnose`: diagnoses are stored and measured once, and runs that can't be measured are named."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from gmt_analysis.report import write_report
from gmt_analysis.results import Results

from gmt.commands.diagnose import diagnose_study
from gmt.diagnostics.finished import FinishedRun
from gmt.diagnostics.protocol import Row, Shown
from gmt.errors import RunFailed, UserError
from gmt.records.diagnoses import diagnoses_of
from gmt.runs import diagnose as of_runs
from gmt.runs.build import build
from gmt.runs.diagnose import finished
from gmt.studies.diagnosing import Diagnosed, diagnose, steps_of
from gmt.studies.plan import Plan
from tests.diagnosed import ARMS, config_of, noise, planted, rows_of
from tests.finished import finish, plan_of

SEEN: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Sums:
    """A diagnostic from outside: the sum of a run's weights."""

    name: str = "sums"
    value: float | None = None
    needs_weights = True
    shown = Shown(title="Sums", panels={"sum": "sum of the weights"})

    def rows(self, run: FinishedRun) -> Iterator[Row]:
        SEEN.append(run.id)
        total = sum(float(tensor.double().sum()) for tensor in run.tuned().values())
        yield Row(name="sum", value=total if self.value is None else self.value)


SUMS = {"_target_": f"{__name__}.Sums"}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    SEEN.clear()
    return planted(tmp_path, arms={"sft": ARMS["sft"]})


def measured(plan: Plan, *configs: dict[str, Any]) -> list[Diagnosed]:
    return list(diagnose(steps_of(plan, list(configs) or [SUMS]).steps, lambda *_: None))


def files_of(plan: Plan) -> list[Path]:
    return sorted(path for each in plan.runs for path in (each.record.folder / "diagnostics").glob("*.json"))


def test_a_stored_diagnosis_is_not_measured_again(plan: Plan) -> None:
    first, again = measured(plan), measured(plan)
    assert len(SEEN) == 2
    assert [each.is_new for each in (*first, *again)] == [True, True, False, False]
    assert [diagnosed.diagnosis for diagnosed in first] == [diagnosed.diagnosis for diagnosed in again]
    measured(plan, SUMS | {"value": 1.0})  # other settings
    assert len(SEEN) == 4
    assert len(files_of(plan)) == 4


def test_other_code_measures_anew_and_a_mixture_is_named(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(plan)
    code = diagnoses_of(plan.runs[0].record)[0].code
    monkeypatch.setattr(of_runs, "code_of", lambda config: {**code, "gmt": "other"})
    next(diagnose(steps_of(plan, [SUMS]).steps, lambda *_: None))
    (found,) = Results(plan).diagnoses.values()
    assert "sums was measured by differing code: gmt " in str(found.differing)
    assert found.rows["run_id"].nunique() == 2
    measured(plan)
    assert len(SEEN) == 4
    assert len(files_of(plan)) == 2


@pytest.mark.parametrize("how", ["cut", "edited", "copied", "no object"])
def test_a_damaged_file_is_ignored_and_changes_no_run(plan: Plan, how: str) -> None:
    measured(plan)
    file, other = files_of(plan)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif how == "edited":
        file.write_text(file.read_text().replace('"value": ', '"value": 1'))
    elif how == "copied":
        shutil.copy(other, file)
    else:
        file.write_text("[1]")
    assert {each.record.state() for each in plan.runs} == {"done"}
    assert [len(diagnoses_of(each.record)) for each in plan.runs if each.record.folder in file.parents] == [0]
    assert sorted(each.is_new for each in measured(plan)) == [False, True]
    assert [len(diagnoses_of(each.record)) for each in plan.runs] == [1, 1]


def test_a_repeated_run_is_measured_again(plan: Plan) -> None:
    config = config_of("mask_overlap")
    assert len(measured(plan, config)) == 3
    last = max(plan.runs, key=lambda planned: planned.run.id).record  # the other of the pair
    last.write("result.json", last.read("result.json") | {"weights_sha256": "0" * 64})
    last.finish()
    assert [len(diagnoses_of(each.record)) for each in sorted(plan.runs, key=lambda p: p.run.id)] == [1, 0]


def test_a_kill_costs_only_the_current_measurement(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of_runs.write_diagnosis

    def killed(file: Path, found: Any) -> None:
        if len(SEEN) == 2:
            raise KeyboardInterrupt
        whole(file, found)

    monkeypatch.setattr(of_runs, "write_diagnosis", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(plan)
    monkeypatch.undo()
    measured(plan)
    assert len(SEEN) == 3
    assert SEEN[1] == SEEN[2]


def test_a_step_of_another_process_is_postponed(plan: Plan) -> None:
    steps = steps_of(plan, [SUMS]).steps
    file = steps[0].diagnosing._file(steps[0].planned.run, None)
    file.parent.mkdir()
    lock = FileLock(file.with_suffix(".lock"))
    lock.acquire()
    order = diagnose(steps, lambda *_: None)
    assert next(order).step is steps[1]
    lock.release()
    assert next(order).step is steps[0]


def test_weights_of_another_run_are_refused(plan: Plan) -> None:
    first, second = (each.record.folder / "weights" / "model.safetensors" for each in plan.runs)
    shutil.copy(second, first)
    faults = [each.fault for each in measured(plan)]
    assert "must hold the weights that its run ended with, and does not" in str(faults[0])
    assert faults[1] is None
    first.write_bytes(b"x")
    assert "can't be read" in str(measured(plan)[0].fault)


def test_weights_without_a_parameter_of_the_base_are_refused_by_name(tmp_path: Path) -> None:
    plan = planted(tmp_path, arms={"sft": ARMS["sft"]}, seeds=1)
    renamed = {f"other.{name}": p.detach() for name, p in plan.runs[0].run.model.base().named_parameters()}
    from safetensors.torch import save_file

    save_file(renamed, plan.runs[0].record.folder / "weights" / "model.safetensors")
    assert "must hold the parameters of the base, and lacks model." in str(measured(plan)[0].fault)


def test_runs_without_weights_are_named_before_any_measurement(plan: Plan) -> None:
    for each, folder in zip(plan.runs, ("adapter", None), strict=True):
        shutil.rmtree(each.record.folder / "weights")
        if folder is not None:
            (each.record.folder / folder).mkdir()
            whole = steps_of(plan, [SUMS])
            assert len(whole.steps) == 1
            assert whole.refusals == [
                "sums skips runs, because only an adapter was stored, and not the weights with the adapter merged in: "
                "sft seed=1"
            ]
    with pytest.raises(
        UserError, match=r"sums skips runs, because no weights were stored \(record\.keep_weights=false\)"
    ):
        steps_of(plan, [SUMS])
    assert not SEEN


def test_a_study_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1, 2])
    with pytest.raises(UserError, match=r"study made has no finished run to diagnose; run `gmt sweep` with it first"):
        steps_of(plan, [SUMS])
    finish(plan.runs[0], 0.5)
    assert len(steps_of(plan, [config_of("operations")]).steps) == 1


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), r"diagnostic sums must give finite numbers, got nan as sum of run"),
        ("x", r"class .*Sums fails on run .*: TypeError: .*"),
    ],
)
def test_a_value_of_nan_is_refused(plan: Plan, value: Any, sentence: str) -> None:
    (step, _) = steps_of(plan, [SUMS]).steps
    object.__setattr__(step.diagnosing.diagnostic, "value", value)
    with pytest.raises(UserError, match=sentence):
        step.measure(lambda *_: None)
    assert files_of(plan) == []


def command(overrides: Sequence[str], root: Path) -> None:
    diagnose_study(["study=quickstart", f"record.root={root}", *overrides], None)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], r"gmt diagnose needs diagnostic=NAME; choices: activation_geometry, drift, "),
        (["diagnostic=drifft"], r"there is no diagnostic 'drifft'; did you mean 'drift'"),
        (
            ["diagnostic=drift", "diagnostic.batch_size=0"],
            r"diagnostic\.batch_size must be a whole number of at least 1",
        ),
        (["diagnostic=drift", "diagnostic.rho=1"], r"diagnostic has no setting 'rho'"),
        (["diagnostic=sharpness", "diagnostic.where=[here]"], r"each of diagnostic\.where must be one of all, moved"),
        (["diagnostic=drift"], r"study quickstart has no finished run to diagnose"),
    ],
)
def test_a_wrong_command_raises_one_sentence(overrides: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        command(overrides, tmp_path)


def test_a_run_takes_no_diagnostic() -> None:
    plan = plan_of(Path("x"), {"sft": {"method": "sft"}}, [1])
    with pytest.raises(UserError, match=r"a diagnostic is measured on finished runs, by `gmt diagnose"):
        build({**plan.runs[0].run.config, "diagnostic": config_of("operations")})


def test_the_command_prints_means_and_the_report_shows_them(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmt.commands.diagnose.planned", lambda *_, **__: (plan, {}))
    diagnose_study(["study=made", "diagnostic=mask_overlap", "diagnostic.fraction=0.1,1"], None)
    said = capsys.readouterr().out
    assert "[6/6] mask_overlap of " in said
    assert "sft, between seeds" in said
    diagnose_study(["study=made", "diagnostic=mask_overlap"], None)
    assert "3 of 3 were measured before" in capsys.readouterr().out
    for figures in ("score_figures", "mask_figures", "cost_figures", "loss_figures"):
        monkeypatch.setattr(f"gmt_analysis.report.{figures}", lambda _: {})  # they take seconds
    report = write_report(plan)
    page = report.files[0].read_text()
    assert "What diagnostics measured" in page
    names = {path.name for path in report.files}
    assert {"diagnostic_mask_overlap.csv", "diagnostic_mask_overlap_2.csv", "diagnostic_mask_overlap.pdf"} <= names


def test_the_command_measures_the_other_runs_after_a_failure_and_fails(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (plan.runs[0].record.folder / "weights" / "model.safetensors").write_bytes(b"x")
    monkeypatch.setattr("gmt.commands.diagnose.planned", lambda *_, **__: (plan, {}))
    with pytest.raises(
        RunFailed, match="2 of 3 diagnoses failed, the others are stored; the first failure: mask_overlap of sft"
    ):
        diagnose_study(["study=made", "diagnostic=mask_overlap"], None)


def test_sharpness_of_moved_entries_only_and_without_room(tmp_path: Path) -> None:
    def half(name: str, base: torch.Tensor, number: int) -> torch.Tensor:
        return noise(name, base, number) if "mlp" in name else base

    plan = planted(tmp_path, half, {"sft": {"method": "sft"}}, seeds=1)
    small = ["diagnostic.num_examples=4", "diagnostic.steps=3", "diagnostic.draws=2"]
    where = "diagnostic.where=[all,moved,unmoved]"
    run = finished(plan.runs[0].run)
    found = {row.name: row.value for row in rows_of(run, "sharpness", *small, where, "diagnostic.rho=0.05")}
    assert found["worst_case"] > max(found["worst_case_moved"], found["worst_case_unmoved"]) > 0
    assert found["worst_case"] > found["average_case"]
    nothing = {row.name: row.value for row in rows_of(run, "sharpness", *small, where, "diagnostic.rho=0")}
    assert nothing.pop("loss") == found["loss"]
    assert set(nothing.values()) == {0}


def test_a_diagnosis_is_plain_json(plan: Plan) -> None:
    measured(plan)
    kept = json.loads(files_of(plan)[0].read_text())["diagnosis"]
    assert kept["rows"][0].keys() == {"layer", "matrix", "name", "value"}
    assert kept["settings"]["_target_"].endswith("test_diagnose.Sums")
