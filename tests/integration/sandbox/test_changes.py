"""Programs that write, delete, kill, or leave something behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import needs_bubblewrap
from tests.integration.sandbox.attacks import DAEMON
from tests.integration.sandbox.conftest import needs_nobody
from tests.processes import wait_for
from tests.sandboxing import AS_NOBODY, LIMITS, REPOSITORY, SYSTEM_PYTHON, Run, namespace_of, processes_in

pytestmark = needs_bubblewrap


# What it changes.


def test_nothing_outside_is_written(run: Run) -> None:
    folders = ["/", "/dev", "/etc", "/usr", "/usr/lib", sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)]
    program = f"""
import os, sys
for folder in {folders!r} + [sys.prefix, os.path.dirname(os.__file__)]:
    try: open(os.path.join(folder, 'written'), 'w')
    except OSError: continue
    raise SystemExit('wrote into ' + folder)
"""
    outcome = run(program)
    assert outcome.status == "passed", outcome.stderr_end
    assert not any(Path(folder, "written").exists() for folder in folders)


@pytest.mark.parametrize(
    "attack",
    ["os.unlink({0!r})", "open({0!r}, 'r+b')", "os.chmod({0!r}, 0)", "os.rename({0!r}, '/tmp/x')", "os.utime({0!r})"],
)
def test_python_itself_is_not_changed(run: Run, attack: str) -> None:
    for path in ("os.path.realpath(sys.executable)", "os.__file__"):
        outcome = run(f"import os, sys\npath = {path}\n{attack.replace('{0!r}', 'path')}")
        assert outcome.status == "failed"
        assert any(s in outcome.stderr_end for s in ("Read-only", "denied", "not permitted", "cross-device"))


def test_deleting_everything_deletes_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    program = f"""
import os, shutil
for folder in ('/dev', '/etc', os.path.dirname(os.__file__) + '/json', '/root', '/home', {str(tmp_path)!r}):
    shutil.rmtree(folder, ignore_errors=True)
"""
    assert run(program).status == "passed"
    assert (tmp_path / "mine").exists()
    assert (Path(os.__file__).parent / "json" / "decoder.py").exists()


@pytest.mark.parametrize("path", ["/proc/self/exe", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/x"])
def test_the_kernels_files_are_not_written(run: Run, path: str) -> None:
    outcome = run(f"open({path!r}, 'wb')")
    assert outcome.status == "failed"
    assert any(s in outcome.stderr_end for s in ("No such file or directory", "Read-only file system"))


# Whom it kills, and what outlives it.


@pytest.mark.parametrize("attack", ["os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.kill(1, 15)", "os.killpg(1, 9)"])
def test_it_kills_none_but_itself(run: Run, attack: str) -> None:
    program = f"import os, time\ntry: {attack}\nexcept OSError: pass\ntime.sleep(0.2)"
    assert run(program).status == "passed"


def test_its_own_group_is_all_that_it_kills(run: Run) -> None:
    outcome = run("import os; os.killpg(0, 9)")
    assert (outcome.status, outcome.exit_code) == ("failed", 128 + signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "status"),
    [("pass", "passed"), ("1 / 0", "failed"), ("os._exit(0)", "failed"), ("time.sleep(10**6)", "timed out")],
)
def test_no_daemon_outlives_its_program(run: Run, end: str, status: str) -> None:
    began = time.monotonic()
    assert run(DAEMON + end, replace(LIMITS, wall_time_s=2)).status == status  # `run` looks for what is left
    assert time.monotonic() - began < 60


def test_a_child_that_holds_the_pipes_does_not_hold_up_the_outcome(run: Run) -> None:
    program = "import os, time\nif os.fork() == 0: time.sleep(10**6)"
    began = time.monotonic()
    assert run(program, replace(LIMITS, wall_time_s=100)).status == "passed"
    assert time.monotonic() - began < 50


def test_a_child_that_comes_to_the_last_line_passes_nothing(run: Run) -> None:
    program = "import os, time\nif os.fork(): time.sleep(0.5); raise ValueError"
    assert run(program).status == "failed"


@pytest.mark.parametrize(
    "python",
    [
        pytest.param([sys.executable], id="caller"),
        pytest.param([*AS_NOBODY, SYSTEM_PYTHON], id="nobody", marks=needs_nobody),
    ],
)
def test_a_sandbox_ends_with_a_caller_who_is_killed(python: list[str]) -> None:
    code = """
import os
real = os.pidfd_open
def telling(pid):
    print(pid, flush=True)
    return real(pid)
os.pidfd_open = telling
from gmt.evaluation.sandboxing.sandbox import run_python
from tests.sandboxing import LIMITS
from dataclasses import replace
run_python("import time; time.sleep(60)", replace(LIMITS, wall_time_s=60))
"""
    caller = subprocess.Popen([*python, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    with caller:
        try:
            assert caller.stdout is not None
            caller.stdout.readline()  # the trial's
            namespace = namespace_of(int(caller.stdout.readline()))
            wait_for(lambda: len(processes_in([namespace])) == 2, timeout_s=120, every_s=0.01)
            time.sleep(0.2)  # the program's own time
        finally:
            caller.kill()
    try:
        wait_for(lambda: not processes_in([namespace]), timeout_s=120)
    finally:
        os.close(namespace)
