"""README's "Add a method" and docs/adding.md, followed word for word: the tests write the files and run the commands.

A block that begins with `# mine/...` is that file. The default suite tries the files by a short run in this process;
the slow suite runs the page's commands.
"""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from gmt.checks.check import check
from gmt.checks.merging import MERGE
from gmt.checks.planning import DIAGNOSTIC, laws_of_settings, shortened, without_diagnostic
from gmt.checks.training import RESUMES
from gmt.composition import Composer, hydra_on, with_values
from gmt.runs.build import build
from gmt.runs.diagnose import Diagnosing
from gmt.starts.start import KINDS, write_first_files
from tests.conftest import ROOT, Gmt

PAGE = ROOT / "docs" / "adding.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
BLOCK = re.compile(r"```(python|yaml)\n# (mine/\S+)\n(.*?)```", re.DOTALL)
SHOWN = {section.partition("\n")[0]: section for section in SECTIONS if BLOCK.search(section)}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user's own, on Python's path."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for runs that share the base's answers."""
    return tmp_path_factory.mktemp("results")


def write(section: str, folder: Path) -> list[Path]:
    """Write the files that a section shows, and return the yamls."""
    files = {folder.parent / path: text for _, path, text in BLOCK.findall(SHOWN[section])}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [path for path in files if path.suffix == ".yaml"]


def commands(text: str) -> list[list[str]]:
    """Return the gmt commands in the bash blocks of a text, without their comments."""
    lines = [
        line.partition("  #")[0]
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    return [shlex.split(line)[1:] for line in lines if line.startswith("gmt ")]


@pytest.mark.parametrize("section", SHOWN)
def test_the_files_of_the_page_keep_the_laws_of_settings_and_train(section: str, mine: Path, results: Path) -> None:
    (yaml,) = write(section, mine)
    group = yaml.parent.name
    assert [f"{group}={yaml.stem}", "--config-dir", "mine"] in [words[1:] for words in commands(SHOWN[section])]
    with hydra_on(str(mine)):
        config = Composer().compose_plain(
            ["task=long_words", "task.train.long_words.num_examples=16", f"{group}={yaml.stem}"]
        )
    diagnostic = {key: value for key, value in config.items() if key == DIAGNOSTIC}
    config = with_values(shortened(config), {"record.root": str(results)}) | diagnostic
    assert not [verdict for verdict in laws_of_settings(config, [group]) if verdict.state == "broken"]
    from gmt.runs.execute import execute

    if group == MERGE:
        execute(build({**config, MERGE: None}))
    run = build(without_diagnostic(config))
    result = execute(run).result()
    assert result.moved_fraction or result.num_added
    if group == DIAGNOSTIC:
        assert Diagnosing(config[DIAGNOSTIC]).measure(run).rows


@pytest.mark.slow
@pytest.mark.parametrize("section", SHOWN)
def test_the_commands_of_the_page_succeed(section: str, mine: Path, gmt: Gmt) -> None:
    write(section, mine)
    for words in commands(SHOWN[section]):
        done = gmt(*words, is_warm=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not [line for line in done.stdout.splitlines() if line.startswith("broken")]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/adding.md"])
def test_the_first_commands_make_a_method_and_compare_it(page: str, mine: Path, gmt: Gmt) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    typed = commands(text.partition("## Add a method")[2].partition("\n## ")[0] or text.partition("\n## ")[0])
    assert [words[0] for words in typed] == ["new", "check", "run"]
    for words in typed:
        done = gmt(*words, is_warm=False, timeout_s=900)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "all 6 runs are done" in done.stdout


def test_a_new_method_is_resumed_bit_for_bit(mine: Path, tmp_path: Path) -> None:
    """Only the laws up to this one are tried, since `check` tries a law when its verdict is requested."""
    write_first_files("method", "centred_gradient", mine)
    verdicts = list(islice(check(["method=centred_gradient"], str(mine), tmp_path / "scratch"), 9))
    assert verdicts[-1].law == RESUMES
    assert not [verdict for verdict in verdicts if verdict.state != "holds"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_gmt_new_keep_every_law(kind: str, mine: Path, tmp_path: Path) -> None:
    write_first_files(kind, "begun", mine)
    verdicts = list(check([f"{kind}=begun"], str(mine), tmp_path / "scratch"))
    assert not [verdict for verdict in verdicts if verdict.state == "broken"]


@pytest.mark.slow
def test_at_the_root_of_a_checkout_the_same_commands_make_a_method_that_keeps_every_law(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("gmt", "conf", "launchers", "analysis", "tests"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    roots = os.pathsep.join(str(checkout / name) for name in (".", "launchers", "analysis"))

    def gmt(*words: str) -> str:
        command = [sys.executable, "-m", "gmt", *words]
        environment = {**os.environ, "PYTHONPATH": roots}
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "gmt check method=begun\n" in gmt("new", "method", "begun")
    assert (checkout / "gmt/methods/begun.py").is_file()
    assert not [line for line in gmt("check", "method=begun").splitlines() if line.startswith("broken")]


# The tests that `gmt new` writes beside the one of the laws.
OWN_TESTS = {
    "method": ["test_a_row_of_the_gradient_has_a_mean_of_zero"],
    "task": ["test_no_question_is_trained_on_and_the_right_answer_scores"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_of_gmt_new_pass(kind: str, mine: Path, tmp_path: Path) -> None:
    """The laws themselves take minutes and are tried by a slow test; here `check` is recorded and finds no fault."""
    path = next(path for path in write_first_files(kind, "begun", mine).files if path.name == "test_begun.py")
    names: dict[str, Any] = {"__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    checks: list[tuple[Any, ...]] = []
    names["check"] = lambda *arguments: checks.append(arguments) or ()
    passed = []
    for name, test in list(names.items()):
        if name.startswith("test_"):
            test(*([tmp_path] if "tmp_path" in inspect.signature(test).parameters else []))
            passed.append(name)
    assert passed == [*OWN_TESTS.get(kind, []), "test_it_keeps_the_laws"]
    assert checks == [([f"{kind}=begun"], str(mine), tmp_path)]


def test_nothing_is_overwritten_and_in_a_checkout_the_files_lie_where_ours_do(tmp_path: Path) -> None:
    from gmt.errors import UserError

    for folder in ("conf/method", "gmt/checks"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("gmt/__init__.py", "gmt/checks/__init__.py", "gmt/checks/check.py"):
        (tmp_path / file).write_text('"""Stands for ours."""\n')
    first = write_first_files("method", "begun", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ruff = [sys.executable, "-m", "ruff", "check", "."]
    lint = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert lint.returncode == 0, lint.stdout
    shown = [path.relative_to(tmp_path).as_posix() for path in first.files]
    assert shown == ["gmt/methods/begun.py", "conf/method/begun.yaml", "tests/unit/methods/test_begun.py"]
    assert "_target_: gmt.methods.begun.Begun" in (tmp_path / "conf/method/begun.yaml").read_text()
    assert first.commands[0] == "gmt check method=begun"
    with pytest.raises(
        UserError,
        match=r"gmt new overwrites no file, and .*begun\.py, .* exist already: choose another name, or remove them",
    ):
        write_first_files("method", "begun", tmp_path)
    for name in ("json", "2x", "Begun", "be-gun", "class", ""):
        with pytest.raises(UserError, match="NAME must"):
            write_first_files("task", name, tmp_path / "own")
    assert not (tmp_path / "own").exists()
