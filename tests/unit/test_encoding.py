"""Text is UTF-8 wherever it goes, whatever the locale says."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.finished import done_study

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
FOLDERS = ("gmt", "launchers", "analysis", "recipes", "benchmarks")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_file_is_opened_as_utf_8(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert [f"{path}:{line}" for path in files for line in _without_encoding(path)] == []


def _without_encoding(path: Path) -> Iterator[int]:
    """The lines of calls that open text in the locale's encoding."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(each.arg == "encoding" for each in node.keywords):
            continue
        called = ast.unparse(node.func)
        name = called.rpartition(".")[2]
        takes_text = called.startswith("subprocess.") and any(
            each.arg in ("text", "universal_newlines") for each in node.keywords
        )
        is_open = name == "open" and not called.startswith(("os.", "Image.", "webbrowser.", "mirror.", "self.open"))
        mode = [ast.unparse(each) for each in (*node.args, *(k.value for k in node.keywords if k.arg == "mode"))]
        is_text = is_open and not any("b" in each for each in mode if each.startswith("'"))
        if is_text or takes_text or (name == "read_text" and not node.args) or (name == "write_text" and len(mode) < 2):
            yield node.lineno


@pytest.mark.heavy
def test_an_ascii_locale_changes_neither_ids_nor_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "größe → 模型"
    folder.mkdir()
    monkeypatch.chdir(folder)
    record = done_study().runs[0].record
    record.set_status("failed", error="größe → 模型")
    (record.folder / "error.txt").write_text("größe → 模型", encoding="utf-8")
    command = [sys.executable, "-m", "gmt", "show", record.id, 'record.root="größe/.."']
    (folder / "größe").symlink_to(folder / "gmt-results" / "runs")
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | ASCII)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count("größe → 模型") == 3
