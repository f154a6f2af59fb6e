"""A process whose run makes no progress ends by itself and says where it hung; one that does goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from gmt.runs.stall import FILE, end_on_stall

_HANG = """
import ctypes, sys
from pathlib import Path
from gmt.runs.stall import end_on_stall

def hangs_here():
    ctypes.PyDLL(None).sleep(60)  # keeps the GIL

with end_on_stall(0.5, Path(sys.argv[1])):
    hangs_here()
"""
_PROGRESS = """
import sys, time
from pathlib import Path
from gmt.runs.stall import end_on_stall

with end_on_stall(1.0, Path(sys.argv[1])) as progress:
    for _ in range(20):
        time.sleep(0.1)
        progress()
"""


def test_a_hang_that_keeps_the_gil_is_ended_and_located(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _HANG, str(tmp_path)], timeout=240, check=False)
    assert done.returncode == 1
    assert "hangs_here" in (tmp_path / FILE).read_text()


@pytest.mark.heavy
def test_progress_keeps_a_run_alive_and_leaves_no_trace(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRESS, str(tmp_path)], timeout=240, check=False)
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_no_trace_that_could_be_taken_for_a_hang(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), end_on_stall(60, tmp_path):
        raise ValueError("x")
    assert not list(tmp_path.iterdir())
