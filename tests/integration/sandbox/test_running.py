"""Honest programs pass, and a program that ends before its last line, or never, does not."""

import signal
import time
from dataclasses import replace

import pytest

from tests.conftest import needs_bubblewrap
from tests.sandboxing import LIMITS, Run, run_and_look

pytestmark = needs_bubblewrap


# What Python needs is there.


@pytest.mark.parametrize(
    "program",
    [
        "assert sum(range(4)) == 6",
        "import math, re, json, hashlib, sqlite3, ssl, decimal, random; assert hashlib.md5(b'').hexdigest()",
        "open('/tmp/x', 'w').write('y'); assert open('/tmp/x').read() == 'y'",
        "import tempfile\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x')",
        "import os; assert os.getcwd() == os.path.expanduser('~') == '/tmp'",
        "import threading\nt = threading.Thread(target=print); t.start(); t.join()",
        "import subprocess, sys; assert subprocess.run([sys.executable, '-c', 'exit(3)']).returncode == 3",
        "import os\nif os.fork() == 0: os._exit(0)\nassert os.wait()[1] == 0",
        "import random, os; assert os.urandom(9) and random.SystemRandom().random()",
        "assert len(open('/dev/urandom', 'rb').read(9)) == 9; open('/dev/null', 'w').write('x')",
    ],
)
def test_honest_programs_pass(run: Run, program: str) -> None:
    outcome = run(program)
    assert outcome.status == "passed", outcome.stderr_end


def test_packages_beside_this_python_are_there() -> None:
    program = "import numpy; assert numpy.ones(3).sum() == 3"
    outcome = run_and_look(program, replace(LIMITS, memory_bytes=2**31))
    assert outcome.status == "passed", outcome.stderr_end


# A run that ends early or late.


@pytest.mark.parametrize(
    "leave",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "exit()",
        "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'pass'])",
        "import atexit, os; atexit.register(os._exit, 0); raise ValueError",
        "import os, sys; sys.excepthook = lambda *e: os._exit(0); raise ValueError",
        "import os\nif os.fork(): os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.kill(os.getpid(), 15)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.closerange(3, 64); os._exit(0)",
        "import os; [os.write(fd, b'token') for fd in range(3, 9) if os.path.exists('/') and _open(fd)]; os._exit(0)",
    ],
)
def test_leaving_before_the_tests_is_no_pass(run: Run, leave: str) -> None:
    helper = "import os\ndef _open(fd):\n    try: os.fstat(fd); return True\n    except OSError: return False\n"
    assert run(f"{helper}{leave}\nassert False, 'the tests'").status == "failed"


def test_sleeping_for_ever_is_timed_out(run: Run) -> None:
    assert run("import time; time.sleep(10**6)", replace(LIMITS, wall_time_s=0.5)).status == "timed out"


def test_a_busy_loop_is_timed_out_by_either_clock(run: Run) -> None:
    assert run("while True: pass", replace(LIMITS, wall_time_s=0.5)).status == "timed out"
    began = time.monotonic()
    assert run("while True: pass", replace(LIMITS, wall_time_s=100, cpu_time_s=1)).status == "timed out"
    assert time.monotonic() - began < 50


IGNORE_SIGNALS = """
import signal
for each in signal.valid_signals():
    try: signal.signal(each, signal.SIG_IGN)
    except OSError: pass
while True:
    try:
        while True: pass
    except BaseException: pass
"""


def test_no_handler_outlives_the_time(run: Run) -> None:
    assert run(IGNORE_SIGNALS, replace(LIMITS, wall_time_s=0.5)).status == "timed out"
    outcome = run(IGNORE_SIGNALS, replace(LIMITS, wall_time_s=100, cpu_time_s=1))
    assert (outcome.status, outcome.exit_code) == ("failed", 128 + signal.SIGKILL)


def test_closing_everything_does_not_hide_a_program(run: Run) -> None:
    program = "import os, time; os.closerange(0, 64); time.sleep(10**6)"
    assert run(program, replace(LIMITS, wall_time_s=0.5)).status == "timed out"
