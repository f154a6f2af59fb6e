"""Run ids last when the code grows: classes move and are renamed, settings come, and older runs stay done."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.plug_ins import class_of
from gmt.runs import id_form as module
from gmt.runs.build import Run, build
from tests.conftest import CONF

METHOD = """
from dataclasses import dataclass, field
from gmt import settings
from gmt.methods.sft import Sft


@dataclass(frozen=True, kw_only=True)
class {name}(Sft):
    ratio: float
    {more}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of modules that a test writes and writes again."""
    monkeypatch.syspath_prepend(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    yield tmp_path / "outside"
    forget()


def forget() -> None:
    """What this process knows of the modules, as a new one would."""
    for name in [name for name in sys.modules if name.startswith("idform_")]:
        del sys.modules[name]
    for cached in (class_of, module._neutral_values, module._name_in_ids):
        cached.cache_clear()


def write(package: Path, path: str, more: str = "") -> None:
    forget()
    file, _, name = path.rpartition(".")
    (package / f"{file}.py").write_text(METHOD.format(name=name, more=more))


def run_of(path: str, **values: Any) -> Run:
    with hydra_on(str(CONF)):
        config = Composer().compose_plain(["task=tiny"])
    return build(config | {"method": {"_target_": path, "name": "mine", "ratio": 0.5, **values}})


def test_a_class_that_moves_and_is_renamed_keeps_its_runs(package: Path) -> None:
    write(package, "idform_first.Mine")
    before = run_of("idform_first.Mine").id
    (package / "idform_first.py").unlink()
    write(package, "idform_second.Yours")
    assert run_of("idform_second.Yours").id != before
    write(package, "idform_second.Yours", 'name_in_ids = "idform_first.Mine"')
    assert run_of("idform_second.Yours").id == before


def test_a_path_that_leads_to_a_class_elsewhere_is_that_class(package: Path) -> None:
    write(package, "idform_first.Mine")
    (package / "idform_other.py").write_text("from idform_first import Mine\n")
    assert run_of("idform_other.Mine").id == run_of("idform_first.Mine").id


def test_a_class_that_inherits_is_another(package: Path) -> None:
    write(package, "idform_first.Mine", 'name_in_ids = "a name"')
    (package / "idform_other.py").write_text("from idform_first import Mine\n\n\nclass Heir(Mine):\n    pass\n")
    assert run_of("idform_other.Heir").id != run_of("idform_first.Mine").id


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            '"gmt.methods.sft.Sft"',
            "must not have name_in_ids='gmt.methods.sft.Sft', which is the path of another class",
        ),
        ('""', "must have a text as name_in_ids, got ''"),
        ("7", "must have a text as name_in_ids, got 7"),
    ],
)
def test_the_name_of_another_is_refused(package: Path, name: str, why: str) -> None:
    write(package, "idform_first.Mine", f"name_in_ids = {name}")
    with pytest.raises(UserError, match=rf"class idform_first\.Mine {why}"):
        run_of("idform_first.Mine")


def test_a_new_setting_at_its_neutral_value_leaves_an_id_as_it_was(package: Path) -> None:
    write(package, "idform_first.Mine")
    before = run_of("idform_first.Mine").id
    write(package, "idform_first.Mine", "momentum: float = settings.neutral(0.0)")
    assert [run_of("idform_first.Mine", momentum=value).id == before for value in (0, 0.0, 0.5)] == [True, True, False]
    write(package, "idform_first.Mine", "is_new: bool = settings.neutral(False)")
    assert [run_of("idform_first.Mine", is_new=value).id == before for value in (False, True, 0)] == [
        True,
        False,
        False,
    ]
    write(package, "idform_first.Mine", "parts: dict = settings.neutral({'a': [1.0]})")
    assert [run_of("idform_first.Mine", parts=value).id == before for value in ({"a": [1]}, {})] == [True, False]


def test_a_config_from_before_a_setting_is_complete_and_keeps_its_id(package: Path) -> None:
    write(package, "idform_first.Mine")
    before = run_of("idform_first.Mine")
    write(package, "idform_first.Mine", "parts: dict = settings.neutral({'a': [1.0]})")
    assert build(before.config).id == before.id
    made, other = build(before.config).method, build(before.config).method
    assert made.parts == {"a": [1.0]}  # type: ignore[attr-defined]
    assert made.parts is not other.parts  # type: ignore[attr-defined]


def test_plug_ins_within_plug_ins_keep_their_names_too(package: Path) -> None:
    write(package, "idform_first.Mine", 'name_in_ids = "kept"; parts: dict = field()')
    within = {"a": {"b": {"_target_": "idform_first.Mine", "name": "x", "ratio": 1, "parts": {}}}}
    method = run_of("idform_first.Mine", parts=within).science["method"]
    assert (method["_target_"], method["parts"]["a"]["b"]["_target_"]) == ("kept", "kept")
