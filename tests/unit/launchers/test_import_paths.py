"""A new process finds modules in the folders of PYTHONPATH by itself, and not in folders that only this process has."""

from pathlib import Path

import pytest
from gmt_launchers.import_paths import paths_beyond_new_processes


def test_folders_with_modules_that_a_new_process_would_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(paths_beyond_new_processes())
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf").mkdir()
    assert set(paths_beyond_new_processes()) == before
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    assert set(paths_beyond_new_processes()) - before == {str(tmp_path)}
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    assert set(paths_beyond_new_processes()) <= before
