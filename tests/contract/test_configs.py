"""Laws over every file of conf/, and over what may import what."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gmt.composition import Composer, hydra_on
from gmt.config_dir import config_dir
from gmt.errors import UserError
from gmt.plug_ins import class_of
from gmt.runs.build import build, settings_of
from gmt.studies.opened import planned
from gmt.tracking.settings import TrackingSettings

GROUPS = ("model", "task", "method", "train", "selection", "merge", "tracking")
FILES = [(group, path.stem) for group in GROUPS for path in sorted((config_dir() / group).glob("*.yaml"))]
ROWS = Path(__file__).parents[1] / "data" / "sums.jsonl"
_TWO_PARENTS = [f"parents=[{'a' * 16},{'b' * 16}]"]
_VALIDATION = (
    "merge.validation={words: {_target_: gmt.tasks.reasoning_gym.Family, family: spell_backward, settings: {}, "
    "num_examples: 1, data_seed: 1, max_new_tokens: 1}}"
)
NEEDED = {
    ("merge", "soup"): _TWO_PARENTS,
    ("merge", "ties"): _TWO_PARENTS,
    ("merge", "greedy_soup"): [*_TWO_PARENTS, _VALIDATION],
    ("tracking", "server"): ["tracking.uri=http://127.0.0.1:1"],
    ("model", "pretrained"): ["model.name=x", "model.path=shipped:nano"],
    ("task", "dataset"): ["task.name=x", f"task.data.path={ROWS}", f"task.target.held_out.data.path={ROWS}"],
    ("task", "ultrafeedback"): ["train=dpo"],
    ("train", "dpo"): ["task=ultrafeedback"],
}
STUDIES = sorted(path.stem for path in (config_dir() / "study").glob("*.yaml"))


@pytest.fixture
def composer() -> Iterator[Composer]:
    with hydra_on(None):
        yield Composer()


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_composes_and_builds(composer: Composer, group: str, name: str) -> None:
    needed = NEEDED.get((group, name), [])
    config = composer.compose_plain([f"{group}={name}", *needed])
    assert build(config).science["seed"] == config["seed"]
    settings_of("tracking", TrackingSettings, config["tracking"])


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_plans(name: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.touch()  # a plan hashes them and reads no more, and 100 MB need not be installed for that
    stands_in = [f"model.gguf={weights}"] if "gguf" in (config_dir() / "study" / f"{name}.yaml").read_text() else []
    plan, _ = planned([f"study={name}", f"record.root={tmp_path}", *stands_in], None)
    assert plan.study.name == name
    assert set(plan.states().values()) == {"to do"}


def test_a_run_that_occurs_twice_in_a_study_is_refused() -> None:
    with pytest.raises(UserError, match=r"the same run occurs in the study 2 times: 'gmt .*' and 'gmt "):
        planned(["study=quickstart", "method.mask_ratio=0.5,0.50", "seed=1"], None)


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (
            "from gmt.commands.plan import plan; plan(['study=quickstart'], None, every_run=False)",
            "torch transformers ray mlflow pandas",
        ),
        (
            "from gmt.axis import Axis; from gmt.tracking.table import read_table; read_table([], axis=Axis())",
            "torch transformers ray mlflow",
        ),
        ("import gmt.masking", "transformers ray mlflow hydra omegaconf gmt.errors"),
        ("import gmt.runs.execute, gmt.training.train, gmt.methods.gradient_mask", "ray mlflow"),
        ("from hydra.core.plugins import Plugins; Plugins.instance()", "torch transformers ray mlflow"),
        (
            "from gmt.cli import run_command; from gmt.commands.parsers import parse; parse(['plan'])",
            "hydra omegaconf torch yaml rich gmt.composition gmt.commands.plan",
        ),
        (
            "from gmt.commands.completion import overrides; "
            "assert 'method.scope=global' in overrides('method.scope=', [], None, command='run')",
            "hydra omegaconf torch ray mlflow rich pandas",
        ),
    ],
)
def test_what_must_be_light_imports_nothing_heavy(code: str, forbidden: str) -> None:
    check = f"{code}\nimport sys\nassert not (bad := set({forbidden.split()!r}) & set(sys.modules)), bad"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "group", ["method", "merge", "selection", "diagnostic", "search", "model", "task", "benchmark"]
)
def test_a_yaml_names_every_setting_of_its_class(group: str) -> None:
    """So that none needs a `+` on the command line, and each is seen where its value is set."""
    missing = {}
    for path in sorted((config_dir() / group).glob("*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "_target_" not in config:  # it begins with another yaml
            continue
        names = {field.name for field in dataclasses.fields(class_of(group, config["_target_"]))}
        suites = {"target", "source"} if group == "task" else set()  # of other yamls, or there are none
        if left := names - set(config) - suites:
            missing[path.name] = left
    assert missing == {}
