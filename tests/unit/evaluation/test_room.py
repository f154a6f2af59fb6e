"""How many programs run at a time."""

from pathlib import Path

import pytest

from gmt.evaluation.code_eval import CodeEval
from gmt.evaluation.sandboxing import room


def test_cores_and_memory_limit_the_number_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "usable_cores", lambda: 64)
    monkeypatch.setattr(room, "free_bytes", lambda: 100_000_000 * 1024)
    assert room.num_at_once(8, 2**31) == 8
    assert room.num_at_once(100, 2**31) == 47  # of 95 GiB
    assert room.num_at_once(100, 1) == 64
    assert room.num_at_once(8, 2**40) == 1


def test_a_run_of_one_core_runs_one_program_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = f"import os, time\nfile = os.open({str(log)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY)\n"
    program += "os.write(file, b'<')\ntime.sleep(0.1)\nos.write(file, b'>')"
    scorer = CodeEval()
    scorer.without_sandbox = True
    done: list[None] = []
    scorer.on_done = lambda: done.append(None)
    assert scorer.compute([""], [[program] * 4], k=(1,))[0] == {"pass@1": 1.0}
    assert log.read_text() == "<><><><>"
    assert len(done) == 4
