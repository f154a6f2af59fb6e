"""The run ids of every yaml are pinned: whatever the code becomes, runs that are done stay done.

Suites are pinned with the tasks that read them.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.config_dir import config_dir
from gmt.records.identity import run_id
from gmt.runs.build import build
from tests.contract.test_configs import NEEDED, ROWS

PINNED: dict[str, str] = json.loads((Path(__file__).parent / "ids.json").read_text(encoding="utf-8"))
PART_OF = {
    "model": "model",
    "task": "task",
    "method": "method",
    "train": "train",
    "benchmark": "task",
    "selection": "selection",
    "merge": "merge",
}
EVALUATIONS = {
    "held_out": [f"task.target.extra.data.path={ROWS}"],
    "lm_eval": ["task.target.extra.task=piqa", "task.target.extra.metric=acc"],
}


def overrides_of(group: str, name: str) -> list[str]:
    if group == "benchmark":
        return ["task=metamath", f"+benchmark@task.target.extra={name}", *EVALUATIONS.get(name, [])]
    return [f"{group}={name}", *NEEDED.get((group, name), [])]


def id_of(group: str, name: str) -> str:
    """Of the group's own settings: an id of a whole run holds versions of libraries too, which come and go."""
    with hydra_on(None):
        science: Any = build(Composer().compose_plain(overrides_of(group, name))).science
    text = json.dumps(science[PART_OF[group]]).replace(str(ROWS), "sums.jsonl")
    return run_id(json.loads(text))


FILES = [(group, path.stem) for group in PART_OF for path in sorted((config_dir() / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "name"), FILES)
def test_the_ids_of_a_yaml_are_what_they_were(group: str, name: str) -> None:
    """A new yaml: write its id into ids.json. A changed one is no mistake only where results change, and stands in
    the CHANGELOG: every recorded run becomes one to do. A class that moves has `name_in_ids`, a new setting a neutral
    value (gmt/runs/id_form.py)."""
    assert PINNED.get(f"{group}/{name}") == id_of(group, name)


def test_no_pin_is_left_of_a_yaml_that_is_gone() -> None:
    assert sorted(PINNED) == sorted(f"{group}/{name}" for group, name in FILES)
