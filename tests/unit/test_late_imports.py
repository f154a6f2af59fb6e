"""A library can be imported without the slow modules that it imports, until somebody uses them."""

import subprocess
import sys
from pathlib import Path

import pytest

from gmt.late_imports import imported_late

LIBRARY = """
import slow.part as part
import slow.part
from slow.other import Unused

def value():
    return part.VALUE
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a library that imports `slow`."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "__init__.py").touch()
    (tmp_path / "slow" / "part.py").write_text("VALUE = 7")
    (tmp_path / "slow" / "other.py").write_text("class Unused: ...")
    (tmp_path / "uses_slow.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("slow", "slow.part", "slow.other", "uses_slow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "uses_slow"


MODULES = {"slow": (), "slow.part": (), "slow.other": ("Unused",)}


def test_a_module_is_imported_when_it_is_first_used(library: str) -> None:
    with imported_late(MODULES):
        imported = __import__(library)
    assert not [name for name in sys.modules if name.partition(".")[0] == "slow"]
    assert imported.Unused is None
    assert imported.value() == 7
    assert sys.modules["slow.part"].VALUE == 7
    with pytest.raises(AttributeError, match="MISSING"):
        imported.part.MISSING  # noqa: B018


def test_a_package_that_is_imported_already_stays(library: str) -> None:
    own = __import__("slow.other").other
    with imported_late(MODULES):
        imported = __import__(library)
        assert sys.modules["slow.part"].VALUE == 7
    assert imported.Unused is own.Unused
    assert sys.modules["slow.other"] is own


def test_nothing_is_left_after_an_import_that_failed(library: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="absent"), imported_late(MODULES):
        __import__("absent")
    assert not [name for name in sys.modules if name.partition(".")[0] == "slow"]


DRAW = """
import sys
from gmt.tasks.generated import drawn_questions
dataset, questions = drawn_questions({"family": "game_of_life", "settings": {}, "num_examples": 2}, 0, distinct=True)
assert len(questions) == 2 and dataset.score_answer(questions[0]["answer"], questions[0]) == 1.0
print(*[name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "mpl_toolkits")])
import cellpylib
cellpylib.ca_functions.plt.switch_backend("agg")
cellpylib.plot(cellpylib.init_simple(5), show=False)
import matplotlib.pyplot
print(len(matplotlib.pyplot.get_fignums()))
"""


def test_questions_are_drawn_without_the_library_for_plots_and_plots_still_work() -> None:
    done = subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "\n1\n"), done.stderr
