"""A machine that makes no sandbox, one that fails to, and one that makes several at once."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gmt.evaluation.sandboxing.sandbox import run_all, run_python
from gmt.evaluation.sandboxing.starting import NotStarted
from tests.conftest import needs_bubblewrap
from tests.integration.sandbox.attacks import DAEMON, FORK_BOMB
from tests.sandboxing import LIMITS, REPOSITORY, namespaces_noted, processes_in

pytestmark = needs_bubblewrap


def test_where_user_namespaces_are_off_the_refusal_says_so() -> None:
    imports = "from gmt.evaluation.sandboxing.sandbox import run_python; from tests.sandboxing import LIMITS"
    code = f"{imports}; run_python('', LIMITS)"
    outside = ["bwrap", "--unshare-user", "--uid", "1000", "--disable-userns", "--dev-bind", "/", "/", "--"]
    done = subprocess.run(
        [*outside, sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert "gmt.errors.UserError: model-written programs run in a sandbox, but bubblewrap can't make one" in done.stderr
    assert "run_untrusted_code_without_sandbox: true" in done.stderr


def test_a_fault_of_the_machine_is_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_python("pass", LIMITS)  # the trial
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho bwrap: out of something >&2; exit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(NotStarted, match="out of something"):
        run_python("pass", LIMITS)
    with pytest.raises(NotStarted, match="out of something"):
        run_all(["pass"] * 3, LIMITS, at_once=2)


def test_hostile_programs_side_by_side_leave_honest_ones_alone() -> None:
    programs = ["pass", FORK_BOMB, "bytearray(2**30)", DAEMON, "while True: print('x')", "assert True", "pass", DAEMON]
    run_python("pass", LIMITS)  # the trial
    with namespaces_noted() as namespaces:
        outcomes = run_all(programs, replace(LIMITS, wall_time_s=1), at_once=4)
        assert len(namespaces) == len(programs) + 2  # both bombs again, alone
        assert not processes_in(namespaces)
    expected = ["passed", "timed out", "out of memory", "passed", "too much output", *["passed"] * 3]
    assert [outcome.status for outcome in outcomes] == expected
    open_files = len(os.listdir("/proc/self/fd"))
    run_all(["pass"] * 8, LIMITS, at_once=4)
    assert len(os.listdir("/proc/self/fd")) == open_files
