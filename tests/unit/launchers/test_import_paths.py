"""A new process searches the folders of PYTHONPATH by itself, and not those that only this process has."""

from pathlib import Path

import pytest
from gmt_launchers.import_paths import paths_beyond_new_processes


def test_only_folders_that_a_new_process_would_not_search_are_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(paths_beyond_new_processes())
    monkeypatch.syspath_prepend(tmp_path)
    assert set(paths_beyond_new_processes()) - before == {str(tmp_path)}
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    assert set(paths_beyond_new_processes()) <= before
