"""`gmt check`: every yaml keeps its laws, and a broken law is reported in a sentence.

The default suite tries the laws of settings on every yaml; the slow suite tries all laws.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from gmt.checks import merging, training
from gmt.checks.check import check
from gmt.checks.planning import IN_YAML, LIGHT, NEUTRAL_IDS, SAME_ID, laws_of_settings
from gmt.checks.short_runs import RunEnd
from gmt.checks.verdict import Verdict
from gmt.composition import Composer, hydra_on
from gmt.config_dir import config_dir
from gmt.errors import UserError
from gmt.training.optimizers import OPTIMIZERS, is_installed
from tests.arms import ARMS, fits_shipped_model, plain_arm, with_biases
from tests.contract.test_configs import FILES as ALL
from tests.contract.test_configs import NEEDED
from tests.unit.training.test_optimizers import settings_of

DIAGNOSTICS = [path.stem for path in sorted((config_dir() / "diagnostic").glob("*.yaml"))]
FILES = [(group, name) for group, name in ALL if group != "tracking"]
FILES += [("diagnostic", name) for name in DIAGNOSTICS]
MERGES = [name for group, name in FILES if group == "merge"]


def composed(group: str, name: str) -> dict[str, Any]:
    with hydra_on(None):
        return Composer().compose_plain([f"{group}={name}", *NEEDED.get((group, name), [])])


def broken(verdicts: Sequence[Verdict]) -> dict[str, str]:
    return {verdict.law: verdict.detail for verdict in verdicts if verdict.state == "broken"}


@pytest.mark.parametrize(("group", "name"), FILES)
def test_the_settings_of_every_yaml_keep_the_laws(group: str, name: str) -> None:
    assert not broken(list(laws_of_settings(composed(group, name), [group])))


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_every_method_keeps_the_laws(arm: str, tmp_path: Path) -> None:
    overrides = [f"method={arm}", *([] if fits_shipped_model(arm) else with_biases(tmp_path))]
    assert_laws_of_training_hold(list(check(overrides, None, tmp_path / "scratch")))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if is_installed(name)])
def test_every_optimizer_keeps_the_laws(name: str, tmp_path: Path) -> None:
    no_warm_up = {"warmup_ratio": 0.0}  # settings that the neutral optimizer takes too
    overrides = [f"train.{key}={value}" for key, value in {**settings_of(name), **no_warm_up}.items()]
    verdicts = check(["train=quickstart", f"method={plain_arm()}", *overrides], None, tmp_path)
    assert_laws_of_training_hold(list(verdicts))


def assert_laws_of_training_hold(verdicts: Sequence[Verdict]) -> None:
    """Raise AssertionError unless all laws hold; preferences and workers may be refused by the setting's sentence."""
    assert not broken(verdicts)
    states = {verdict.law: verdict.state for verdict in verdicts}
    details = {verdict.law: verdict.detail for verdict in verdicts}
    for law in (training.TRAINS, training.SAVES, training.RESUMES, training.CUT, training.BF16):
        assert states[law] == "holds", details[law]
    may_refuse = {
        training.DPO: "train.paradigm",
        training.DDP: "resources.workers",
        training.FSDP: "resources.sharding",
    }
    for law, setting in may_refuse.items():
        assert states[law] == "holds" or details[law].startswith(f"{setting} must be "), details[law]


@pytest.mark.slow
@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_every_diagnostic_keeps_the_laws(name: str, tmp_path: Path) -> None:
    assert not broken(list(check([f"diagnostic={name}"], None, tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("name", MERGES)
def test_every_merge_keeps_the_laws(name: str, tmp_path: Path) -> None:
    verdicts = list(check([f"merge={name}", *NEEDED.get(("merge", name), [])], None, tmp_path))
    assert not broken(verdicts)
    assert merging.KILLED in {verdict.law for verdict in verdicts if verdict.state == "holds"}


def test_a_merge_of_several_runs_is_checked_without_naming_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmt.checks.check.laws_of_merge", lambda runs: iter(()))
    verdicts = list(check(["merge=soup"], None, tmp_path))
    assert SAME_ID in {verdict.law for verdict in verdicts}
    assert not broken(verdicts)


HEAD = """
from __future__ import annotations
from dataclasses import dataclass
from gmt import settings
from gmt.methods.sft import Dense, Sft
"""
YAML = "_target_: {module}.Mine\nname: mine\n{more}"


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Writes a method of a user, checks it, and returns the broken laws."""
    module = f"checked_{abs(hash(request.node.name))}"
    monkeypatch.syspath_prepend(tmp_path)

    def check_method(code: str, more: str = "") -> dict[str, str]:
        (tmp_path / f"{module}.py").write_text(HEAD + textwrap.dedent(code))
        (tmp_path / "method").mkdir()
        (tmp_path / "method" / "mine.yaml").write_text(YAML.format(module=module, more=more))
        return broken(list(check(["method=mine"], str(tmp_path), tmp_path / "scratch")))

    return check_method


def test_a_module_that_fails_to_import_is_reported_with_its_cause(checked: Any) -> None:
    (sentence,) = checked("import not_there").values()
    assert "ModuleNotFoundError: No module named 'not_there'" in sentence


def test_all_broken_laws_of_planning_are_reported(checked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmt.checks.check.laws_of_training", lambda runs: iter(()))
    faults = checked(
        """
        import torch
        import os
        @dataclass(frozen=True, kw_only=True)
        class Mine(Sft):
            hidden: float = 0.5
            new: int = settings.neutral(3)
            def __post_init__(self):
                if self.new == 3:
                    raise ValueError("no")
        """,
        more="new: 4\n",
    )
    assert faults.keys() == {LIGHT, NEUTRAL_IDS, IN_YAML}
    assert "torch is imported when a run is planned" in faults[LIGHT]
    assert "method.new at its neutral value 3 must be accepted" in faults[NEUTRAL_IDS]
    assert "method.hidden has a default in Python" in faults[IN_YAML]


def test_a_fingerprint_that_differs_in_another_process_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checked_fingerprint.py").write_text(
        "import os\nfrom dataclasses import dataclass\nfrom gmt.models.pretrained import PretrainedModel\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(PretrainedModel):\n"
        "    def fingerprint(self):\n        return str(os.getpid())\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [nano]\n_target_: checked_fingerprint.Mine\nname: mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("gmt.checks.check.laws_of_training", lambda runs: iter(()))
    faults = broken(list(check(["model=mine"], str(tmp_path), tmp_path / "scratch")))
    assert faults.keys() == {SAME_ID}
    assert "fingerprint() must depend on the settings and the content of files alone" in faults[SAME_ID]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "laws"),
    [
        pytest.param(
            """
            def before(self, optimizer, *_):  # nothing of it in the checkpoint
                self.step = getattr(self, "step", 0) + 1
                for p in optimizer.param_groups[0]["params"]:
                    p.grad.mul_(self.step)
            """,
            {training.RESUMES},
            id="state-that-no-checkpoint-holds",
        ),
        pytest.param(
            """
            def before(self, optimizer, *_):
                for p in optimizer.param_groups[0]["params"]:
                    p.grad.mul_(torch.rand(()) * random.random())
            """,
            {training.RESUMES, training.WATCHED, training.CUT, training.DDP, training.FSDP},
            id="draws-of-no-seed",
        ),
        pytest.param("def facts(self):\n                return {'gain': float('nan')}", {training.FINITE}, id="nan"),
        pytest.param("def detach(self):\n                raise LookupError('gone')", {training.TRAINS}, id="raises"),
    ],
)
def test_a_broken_law_of_training_is_reported(checked: Any, body: str, laws: set[str]) -> None:
    code = """
        @dataclass(frozen=True, kw_only=True)
        class Mine(Sft):
            @property
            def target_density(self):
                return None
            def attach(self, model, optimizer, *, seed, facts_every):
                return AtWork(optimizer)
        class AtWork(Dense):
            def __init__(self, optimizer):
                global torch, random
                import torch, random
                if hasattr(self, "before"):
                    self.hook = optimizer.register_step_pre_hook(self.before)
            def facts(self):
                return {}
        """
    method = textwrap.indent(textwrap.dedent(body).strip(), "    ") if "\n" in body else body
    faults = checked(textwrap.dedent(code) + method)
    assert faults.keys() == laws, faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formula", "laws"),
    [
        pytest.param("base + random.random()", {merging.KILLED, merging.ORDER}, id="draws-of-no-seed"),
        pytest.param("base + torch.rand(base.shape, generator=drawn)", {merging.ORDER}, id="one-generator-for-all"),
        pytest.param("base / 0", {merging.MERGES}, id="nan"),
    ],
)
def test_a_broken_law_of_merges_is_reported(
    formula: str, laws: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"checked_{abs(hash(formula))}"
    (tmp_path / f"{module}.py").write_text(
        "from dataclasses import dataclass\nfrom gmt.merges.soup import Soup\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Soup):\n"
        "    num_parents = (1, 1)\n"
        "    def formula(self, weights, *, seed):\n        import random, torch\n"
        "        drawn = torch.Generator().manual_seed(seed)\n"
        "        def made(name):\n            base = weights.base(name)\n"
        f"            return {formula}\n        return made\n"
    )
    (tmp_path / "merge").mkdir()
    (tmp_path / "merge" / "mine.yaml").write_text(YAML.format(module=module, more=""))
    monkeypatch.syspath_prepend(tmp_path)
    assert broken(list(check(["merge=mine"], str(tmp_path), tmp_path / "scratch"))).keys() == laws


def test_a_run_that_ends_before_it_is_killed_breaks_the_law() -> None:
    """So a kill that never comes, as by a checkpoint in an unknown folder, does not pass for a resumed run."""
    record: Any = SimpleNamespace(result=lambda: SimpleNamespace(num_steps=6))
    ended = RunEnd(state="done", sentence="", record=record)
    runs: Any = SimpleNamespace(execute=lambda changes=None, **how: ended)
    for verdict in (training.resumes(ended, runs), merging.repeats(ended, ended, ended)):
        assert verdict.state == "broken"
        assert verdict.detail.startswith("the run ended before ")


def test_a_check_without_a_group_or_with_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gmt check needs a config to check as GROUP=NAME; choices: diagnostic, "):
        next(check(["seed=3"], None, tmp_path))
    with pytest.raises(UserError, match=r"there is no method 'gmtt'; did you mean 'gmt'"):
        next(check(["method=gmtt"], None, tmp_path))


def test_a_check_of_a_study_trains_the_first_run_of_each_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[Any] = []
    monkeypatch.setattr("gmt.checks.study.ShortRuns", lambda config, folder: configs.append(config) or Stub())
    monkeypatch.setattr("gmt.checks.study.trains", lambda run, law: Verdict(law=law, state="holds"))
    verdicts = list(check(["study=quickstart"], None, tmp_path))
    arms = yaml.safe_load((config_dir() / "study" / "quickstart.yaml").read_text(encoding="utf-8"))["arms"]
    assert [verdict.law for verdict in verdicts[2:]] == [f"the first run of arm {arm} trains" for arm in arms]
    assert [config["method"]["name"] for config in configs] == [arm["method"] for arm in arms.values()]
    assert not broken(verdicts)


class Stub:
    def execute(self) -> None:
        """Do nothing, in place of a run."""
