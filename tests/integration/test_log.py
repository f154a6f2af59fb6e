"""Warnings that libraries log during a run are in its log.txt, and not on the terminal."""

from pathlib import Path

import pytest

from tests.conftest import CONF, Gmt

METHOD = """
import logging
from dataclasses import dataclass
from gmt.methods.sft import Sft

@dataclass(frozen=True, kw_only=True)
class Warns(Sft):
    def attach(self, model, optimizer, **how):
        for name in ("concurrent.futures", "gmt.machine_faults", "one.that.is.new"):
            logging.getLogger(name).warning("said by %s", name)
        return super().attach(model, optimizer, **how)
"""


@pytest.mark.parametrize("launcher", ["basic", pytest.param("ray_tune", marks=pytest.mark.slow)])
def test_warnings_of_loggers_old_and_new_are_in_the_log(
    launcher: str, gmt: Gmt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plug_ins").mkdir()
    (tmp_path / "plug_ins/warns.py").write_text(METHOD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plug_ins"))
    method = ["method=sft", "method._target_=warns.Warns", "method.name=warns"]
    settings = ["task=tiny", *method, f"hydra/launcher={launcher}", "tracking=none", "--config-dir", str(CONF)]
    done = gmt("run", *settings, is_warm=False)  # with the loggers that a user's process has
    assert done.returncode == 0, done.stdout + done.stderr
    log = next(tmp_path.glob("gmt-results/runs/*/log.txt")).read_text()
    for name in ("concurrent.futures", "gmt.machine_faults", "one.that.is.new"):
        assert f"WARNING {name}: said by {name}" in log
    assert "said by" not in done.stdout + done.stderr
