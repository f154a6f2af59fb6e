"""Runs by differing code are not averaged or compared without a word."""

import importlib.machinery
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import gmt
from gmt.axis import Axis
from gmt.composition import Composer, hydra_on
from gmt.runs.build import build
from gmt.runs.code_versions import checkout, code_of, combined_versions, outside_versions, source_of, uncommitted
from gmt.runs.environment import environment
from gmt.runs.evaluate import folder_of_base
from gmt.runs.execute import execute
from gmt.studies.differing import differing_code, moving_models
from gmt.studies.plan import Plan
from gmt.tracking.table import read_table
from tests.conftest import CONF
from tests.finished import finish, plan_of

METHOD = """
from dataclasses import dataclass
from mine_helpers.numbers import DENSITY
from gmt.methods.sft import Dense

@dataclass(frozen=True, kw_only=True)
class Mine:
    name: str
    target_density: float = DENSITY

    def attach(self, model, optimizer, *, seed, facts_every):
        return Dense()
"""


def study(tmp_path: Path, codes: dict[str, list[dict[str, str] | None]]) -> Plan:
    """A study with an arm for each key, and a finished run for each code."""
    seeds = list(range(1, 1 + max(map(len, codes.values()))))
    plan = plan_of(tmp_path, {arm: {"method": arm} for arm in codes}, seeds)
    for each in plan.runs:
        finish(each, 0.5)
        if (code := codes[each.point.arm][each.run.seed - 1]) is not None:
            each.record.write("environment.json", each.record.read("environment.json") | {"code": code})
            each.record.finish()
    return plan


def test_one_code_is_worth_no_word(tmp_path: Path) -> None:
    same = {"gmt": "sha256:1", "torch": "2.13.0"}
    assert not differing_code(study(tmp_path, {"sft": [same, same], "hft": [same, same | {"mine": "a"}]}).runs)
    assert not differing_code(study(tmp_path / "old", {"sft": [None, None]}).runs)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ({"mine": "sha256:1"}, {"mine": "sha256:2"}, "mine sha256:1 (seed 1); sha256:2 (seed 2)."),
        ({"torch": "2.13"}, {"torch": "2.12"}, "torch 2.13 (seed 1); 2.12 (seed 2)."),
        ({"gmt": "1"}, {"gmt": "1, then 2"}, "gmt 1 (seed 1); 1, then 2 (seed 2)."),
        ({"gmt": "1, then 2"}, {"gmt": "1, then 2"}, "gmt 1, then 2 (seed 1, 2)."),
        ({"gmt": "1"}, None, "gmt 1 (seed 1); commit 000000000000 (seed 2)."),
    ],
)
def test_a_row_of_runs_by_differing_code_is_told(
    tmp_path: Path, first: dict[str, str], second: dict[str, str] | None, sentence: str
) -> None:
    found = differing_code(study(tmp_path, {"sft": [first, second]}).runs)
    assert found == [f"The runs of sft were made by differing code, which their mean hides: {sentence}"]


def test_rows_that_are_compared_and_differ_are_told(tmp_path: Path) -> None:
    plan = study(tmp_path, {"sft": [{"gmt": "1"}] * 2, "hft": [{"gmt": "2"}] * 2})
    assert differing_code(plan.runs) == ["Rows that are compared were made by differing code: gmt 1 (sft); 2 (hft)."]


@pytest.mark.heavy
def test_the_report_and_the_table_tell_it(tmp_path: Path) -> None:
    from gmt_analysis.report import write_report

    plan = study(tmp_path, {"sft": [{"mine": "1"}, {"mine": "2"}], "hft": [{"mine": "1"}] * 2})
    made = write_report(plan)
    assert made.results.warnings == differing_code(plan.runs)
    assert "made by differing code, which their mean hides" in made.files[0].read_text()
    table = read_table(((p.point.arm, p.point.label, p.record) for p in plan.runs), axis=Axis())
    assert table["code"].nunique() == 2


@pytest.mark.heavy
def test_the_terminal_and_the_page_in_mlflow_tell_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gmt_analysis.results import Results

    from gmt.commands.means import put_result, say_result

    plan = study(tmp_path, {"sft": [{"mine": "1"}, {"mine": "2"}], "hft": [{"mine": "1"}] * 2})
    (sentence,) = differing_code(plan.runs)
    results, page = Results(plan), Page()
    say_result(results)
    assert f"warning: {sentence}\n" in capsys.readouterr().out
    put_result(page, results)  # type: ignore[arg-type]
    assert f"\n\nWarning: {sentence}\n\n" in page.text


def test_runs_that_count_in_no_mean_are_told_beside_the_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gmt_analysis.results import Results

    from gmt.commands.means import put_result, say_result

    plan, page = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1, 2, 3]), Page()
    finish(plan.runs[0], 0.5)
    finish(plan.runs[1], 0.9, dirty=True)
    results = Results(plan)
    say_result(results)
    sentence = (
        "2 of 3 runs are left out of all numbers here: 1 made in a checkout with uncommitted changes, which --dirty "
        "counts (sft seed=2); 1 to do (sft seed=3)."
    )
    assert f"warning: {sentence}\n" in capsys.readouterr().out
    put_result(page, results)  # type: ignore[arg-type]
    assert f"\n\nWarning: {sentence}\n\n" in page.text


class Page:
    """The page of a study in MLflow."""

    text = ""

    def log_means(self, identity: str, means: Any) -> None:
        pass

    def log_result(self, identity: str, text: str) -> bool:
        self.text = text
        return True


def test_new_files_that_no_code_is_read_from_leave_a_checkout_clean(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "code.py").write_text("a = 1\n")
    subprocess.run([*git, "init", "-q"], check=True)
    assert checkout(tmp_path) == {"commit": None, "dirty": None}
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "all"], check=True)
    for name in ("sweep.log", "answers.jsonl", "a folder/notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert uncommitted(tmp_path) == []
    (tmp_path / "code.py").write_text("a = 2\n")
    for name in ("mine.py", "a folder/mine.yaml", "kernel ü.c"):
        (tmp_path / name).touch()
    assert sorted(uncommitted(tmp_path) or []) == ["a folder/mine.yaml", "code.py", "kernel ü.c", "mine.py"]
    (tmp_path / "code.py").unlink()
    assert "code.py" in (uncommitted(tmp_path) or [])


def test_a_plan_warns_of_a_revision_that_may_move(tmp_path: Path) -> None:
    of_hub = {"method": "sft", "model": "smollm2_135m"}
    plan = plan_of(tmp_path, {"pinned": of_hub, "main": {**of_hub, "model.revision": "main"}}, [1])
    rule = "is not a commit and may change: set it to the commit that the hub shows."
    assert moving_models(plan.runs) == [f"model.revision=main of model smollm2_135m {rule}"]
    assert not moving_models(plan.runs[:1])


def test_attempts_by_several_codes_are_both_told() -> None:
    both = combined_versions({"gmt": "1", "mine": "a"}, {"gmt": "2", "mine": "a"})
    assert both == {"gmt": "1, then 2", "mine": "a"}
    assert combined_versions(both, {"gmt": "2", "mine": "a"}) == both
    assert combined_versions({}, {"gmt": "1"}) == {"gmt": "1"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a user's own, below git."""
    folder = tmp_path / "own" / "mine_helpers"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "numbers.py").write_text("DENSITY = 1.0\n")
    (folder / "method.py").write_text(METHOD)
    git = ["git", "-C", str(folder.parent), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    monkeypatch.syspath_prepend(folder.parent)
    source_of.cache_clear()
    return folder


def config_of(root: Path, target: str = "mine_helpers.method.Mine") -> dict[str, Any]:
    with hydra_on(str(CONF)):
        config = Composer().compose_plain(["task=tiny", f"record.root={root}", "train.num_epochs=1"])
    return config | {"method": {"_target_": target, "name": "mine"}}


@pytest.mark.heavy
def test_a_run_records_the_code_of_a_method_from_outside_and_where_it_lies(tmp_path: Path, package: Path) -> None:
    run = build(config_of(tmp_path / "records"))
    environment = execute(run).read("environment.json")
    assert environment["code"]["mine_helpers"].startswith("sha256:")
    assert set(environment["code"]) >= {"gmt", "torch", "transformers", "trl", "peft", "datasets"}
    assert set(environment["versions"]) >= {"trl", "datasets", "tokenizers", "safetensors", "lm-eval", "peft"}
    assert environment["outside"]["mine_helpers"]["dirty"] is False
    assert len(environment["outside"]["mine_helpers"]["commit"]) == 40


def test_any_edited_file_of_the_package_is_other_code(tmp_path: Path, package: Path) -> None:
    config = config_of(tmp_path)
    before = code_of(config)
    (package / "numbers.py").write_text("DENSITY = 0.5\n")
    assert code_of(config) == before  # this process runs what it has imported
    script = "import sys, json; from gmt.runs.code_versions import *; s = json.loads(sys.argv[1]); print(code_of(s))"
    script += "; print(outside_versions(s))"
    path = os.pathsep.join([str(package.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script, '{"method": {"_target_": "mine_helpers.method.Mine"}}'],
        env=dict(os.environ) | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    code, outside = done.stdout.splitlines()
    assert before["gmt"] in code
    assert before["mine_helpers"] not in code
    assert "'dirty': True" in outside
    assert outside_versions({"method": {"_target_": "gmt.methods.sft.Sft"}}) == {}


def test_the_bases_answers_are_kept_by_all_that_decides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncommitted changes of this package count, and a task or model from outside; a method asks the base nothing."""
    run = build(config_of(tmp_path, "gmt.methods.sft.Sft"))
    sources = {"model.files": {"commit": "a", "files": {"model.safetensors": "1"}}}
    before = folder_of_base(run, sources, "cpu")
    assert folder_of_base(run, sources, "cpu") == before
    real = source_of

    def edited(name: str) -> str:
        return "sha256:edited" if name == changed else real(name)

    with monkeypatch.context() as patch:
        patch.setattr("gmt.runs.code_versions.source_of", edited)
        changed = "gmt"
        assert folder_of_base(run, sources, "cpu") != before
        changed = "mine_helpers"
        assert folder_of_base(run, sources, "cpu") == before
    others = [
        folder_of_base(run, {"model.files": sources["model.files"] | {"commit": "b"}}, "cpu"),
        folder_of_base(run, {"model.files": sources["model.files"] | {"files": {"model.safetensors": "2"}}}, "cpu"),
        folder_of_base(replace(run, resources=replace(run.resources, cpus=run.resources.cpus + 1)), sources, "cpu"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "another")
        others.append(folder_of_base(run, sources, "cpu"))
    for name in ("torch", "transformers", "trl", "tokenizers", "lm-eval", "datasets"):
        with monkeypatch.context() as patch:
            versions = environment()["versions"] | {name: "0"}
            patch.setattr("gmt.runs.evaluate.environment", lambda versions=versions: {"versions": versions})
            others.append(folder_of_base(run, sources, "cpu"))
    for gpu in ("an H200", "an H100"):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda gpu=gpu: gpu)
        others.append(folder_of_base(run, sources, "cuda"))
    assert len({before, *others}) == 1 + len(others)


def test_modules_that_a_plug_in_imports_from_folders_are_its_code_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_signal.py").write_text("import json, numpy, not_there\nfrom own_numbers import X\n")
    (tmp_path / "own_numbers.py").write_text("import own_signal\nimport gmt.errors\nX = 1\n")
    (tmp_path / "own_stranger.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"method": {"_target_": "gmt.methods.sft.Sft", "signal": {"_target_": "own_signal.Signal"}}}
    code = code_of(config)
    assert {name for name in code if name.startswith("own_")} == {"own_signal", "own_numbers"}
    assert outside_versions(config)["own_signal"] == {"version": None, "commit": None, "dirty": None}


@pytest.mark.parametrize("name", ["kernels.c", "CUDA/step.cu", "fast.pyx", "_fast.cpython-311-x86_64-linux-gnu.so"])
def test_code_that_is_no_python_is_a_plug_ins_code_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config, found = {"method": {"_target_": "own_kernels.Mine"}}, []
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_kernels" / name
    file.parent.mkdir(parents=True)
    (tmp_path / "own_kernels" / "__init__.py").write_text("")
    (tmp_path / "own_kernels" / "notes.txt").write_text("")
    for content in (b"a", b"\0b", b"\0b"):
        file.write_bytes(content)
        (tmp_path / "own_kernels" / "notes.txt").write_text(f"{len(found)}")
        source_of.cache_clear()
        found.append(code_of(config)["own_kernels"])
    source_of.cache_clear()
    assert found[0] != found[1] == found[2]
    assert outside_versions(config)["own_kernels"]["commit"] is None


def test_an_edit_of_the_kernels_in_c_is_other_code_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(Path(gmt.__file__).parent, tmp_path / "gmt", ignore=shutil.ignore_patterns("shipped"))
    spec = importlib.machinery.PathFinder.find_spec("gmt", [str(tmp_path)])
    monkeypatch.setattr("gmt.runs.code_versions.find_spec", lambda name: spec)
    found = []
    for line in ("", "/* edited */", None):
        with (copy / "masking" / "kernels.c").open("a", encoding="utf-8") as kernels:
            kernels.write(line or "")
        if line is None:
            (copy / "commands" / "show.py").write_text("")  # prints, and decides no result
        source_of.cache_clear()
        found.append(source_of("gmt"))
    source_of.cache_clear()
    assert found[0] != found[1] == found[2]


def test_the_version_of_an_installed_plug_in_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = outside_versions({"method": {"_target_": "peft.tuners.lora.LoraConfig"}})  # stands in for a user's package
    assert found["peft"]["version"] == metadata.version("peft")
    assert "torch" not in found


def test_a_module_of_one_file_is_the_same_code_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for folder in (tmp_path / "a", tmp_path / "b" / "c"):
        folder.mkdir(parents=True)
        (folder / "one_file_module.py").write_text("x = 1\n")
        with monkeypatch.context() as only_here:
            only_here.syspath_prepend(folder)
            source_of.cache_clear()
            found.append(source_of("one_file_module"))
    source_of.cache_clear()
    assert found[0] == found[1] != "unknown"
