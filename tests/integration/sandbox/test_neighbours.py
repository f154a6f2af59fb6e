"""What becomes of a program does not depend on the programs beside it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gmt.evaluation.sandboxing import listening
from gmt.evaluation.sandboxing.sandbox import Outcome, run_all, run_python
from gmt.evaluation.sandboxing.starting import MachineBusy
from tests.conftest import needs_bubblewrap
from tests.sandboxing import LIMITS, run_until_judged

pytestmark = needs_bubblewrap

BUSY = "import time\nuntil = time.process_time() + 0.2\nwhile time.process_time() < until: pass"


@contextmanager
def one_core_shared_with(number: int) -> Iterator[None]:
    """Keeps this thread, and what it starts, on one core, beside so many busy processes."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    hogs = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        os.sched_setaffinity(0, cores)


def test_a_program_that_neighbours_hold_up_is_not_timed_out() -> None:
    limits = replace(LIMITS, wall_time_s=0.25)
    run_python("", LIMITS)  # the trial
    with one_core_shared_with(3):
        assert run_until_judged(BUSY, limits).status == "passed"
        assert run_until_judged("while True: pass", limits).status == "timed out"


def test_a_program_that_gets_no_core_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    run_python("", LIMITS)
    monkeypatch.setattr(listening, "_MAX_SLOWDOWN", 1)
    with one_core_shared_with(3), pytest.raises(MachineBusy, match=r"had 0\.\d s of a core, and needs 0\.15 s"):
        run_python(BUSY, replace(LIMITS, wall_time_s=0.15))


def side_by_side(tmp_path: Path, programs: list[str]) -> tuple[list[Outcome], list[str]]:
    """What becomes of programs that may write down what they do, and what they wrote."""
    log = tmp_path / "log"
    begin = f"""
import os, time
def note(word):
    with open({str(log)!r}, 'a') as file: file.write(word + '\\n')
def is_first(name):
    path = os.path.join({str(tmp_path)!r}, name)
    if os.path.exists(path): return False
    open(path, 'w').close()
    return True
"""
    limits = replace(LIMITS, wall_time_s=1, processes=100_000)
    outcomes = run_all([begin + each for each in programs], limits, at_once=2, run_untrusted_code_without_sandbox=True)
    return outcomes, log.read_text().split() if log.exists() else []


ENDED = ["time.sleep(60)", "x = bytearray(2**30)", "os.kill(os.getpid(), 9)", "exec('while True: pass')"]


def test_what_neighbours_may_have_ended_is_run_again_alone(tmp_path: Path) -> None:
    programs = [
        f"name = 'again{i}'\nif is_first(name): {end}\nnote(name)\ntime.sleep(0.1)\nnote(name)"
        for i, end in enumerate(ENDED)
    ]
    outcomes, log = side_by_side(tmp_path, [*programs, "time.sleep(0.3)\nnote('other')"])
    assert [outcome.status for outcome in outcomes] == ["passed"] * 5
    assert log == ["other", *(f"again{i}" for i in range(len(ENDED)) for _ in range(2))]  # none within another


def test_what_ends_so_alone_too_is_wrong(tmp_path: Path) -> None:
    outcomes, _ = side_by_side(tmp_path, [f"note('x')\n{end}" for end in ENDED[1:3]])
    assert [outcome.status for outcome in outcomes] == ["out of memory", "failed"]


def test_a_wrong_answer_is_not_run_again(tmp_path: Path) -> None:
    outcomes, log = side_by_side(tmp_path, ["note('run')\nassert False"] * 2)
    assert [outcome.status for outcome in outcomes] == ["failed"] * 2
    assert log == ["run"] * 2
