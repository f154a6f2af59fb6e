"""`gmt` can end without the exit handlers of libraries, with its own exit code and all of its output."""

import subprocess
import sys

import pytest

LEAVE = """
import atexit
from gmt.leaving import leave, skip_exit_handlers

atexit.register(print, "a handler")
print("output", end=" ")
{first}
leave(130)
"""


@pytest.mark.parametrize(
    ("first", "output"), [("pass", "output a handler\n"), ("skip_exit_handlers()", "output ")], ids=["usual", "at_once"]
)
def test_the_exit_code_and_the_output_are_kept(first: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE.format(first=first)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, output, "")
