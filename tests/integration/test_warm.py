"""`gmt` in a fork of the fork server behaves as a newly started process does."""

import os

import pytest

from tests.conftest import CONF, Gmt

TINY = ("run", "task=tiny", "tracking=none", "--config-dir", str(CONF))


def test_a_fork_and_a_new_process_say_the_same(gmt: Gmt) -> None:
    for arguments in (("plan", "study=nothing"), ("plan", "study=tiny", "--config-dir", str(CONF)), ("--version",)):
        forked, started = gmt(*arguments), gmt(*arguments, is_warm=False)
        assert (forked.returncode, forked.stdout, forked.stderr) == (
            started.returncode,
            started.stdout,
            started.stderr,
        )


def test_a_changed_environment_is_read_by_a_new_process(gmt: Gmt, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gmt("plan", "study=nothing").returncode == 2
    monkeypatch.setenv("PYTHONPATH", os.devnull)
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    assert "import 'gmt'" in gmt("plan", "study=nothing").stderr
