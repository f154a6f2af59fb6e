"""A home or a temporary folder that can't be used costs a sentence or nothing, and never a traceback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gmt.masking import native
from tests.conftest import CONF, Gmt

NOBODY = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]  # no entry in the list of users
MAY_READ = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_user_without_a_home_gets_an_error(tmp_path: Path, command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    arguments = [*NOBODY, *MAY_READ, sys.executable, "-P", "-m", "gmt", command]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "error: HOME must name a folder, and is not set: user 12345 has no entry in the list of users\n"
    )


def test_masks_are_made_in_c_where_no_cache_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMT_CACHE", "/proc/x/gmt")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    native.library.cache_clear()
    try:
        assert native.library() is not None
    finally:
        native.library.cache_clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_with_a_long_temporary_folder_and_no_home(
    gmt: Gmt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setenv("HOME", "/proc/nohome")
    done = gmt("run", "-m", "task=tiny", "method=gmt", "hydra.launcher.num_cpus=1", "--config-dir", str(CONF))
    assert done.returncode == 0, done.stdout + done.stderr
