"""No program takes more processes, memory, output or disk than it may."""

from dataclasses import replace

import pytest

from tests.conftest import needs_bubblewrap
from tests.integration.sandbox.attacks import FORK_BOMB, LIBC, works_without_walls
from tests.sandboxing import LIMITS, Run

pytestmark = needs_bubblewrap


def test_a_fork_bomb_ends_with_its_time(run: Run) -> None:
    assert run(FORK_BOMB, replace(LIMITS, wall_time_s=1)).status == "timed out"


@pytest.mark.parametrize("processes", [1, 5])
def test_processes_are_counted(run: Run, processes: int) -> None:
    program = """
import os, time
n = 1
try:
    while n < 100:
        if os.fork() == 0: time.sleep(100)
        n += 1
except BlockingIOError: pass
"""
    outcome = run(f"{program}assert n == {processes}, n", replace(LIMITS, processes=processes))
    assert outcome.status == "passed", outcome.stderr_end


def test_threads_are_counted(run: Run) -> None:
    program = """
import threading, time
n = 1
try:
    while n < 100:
        threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        n += 1
except RuntimeError: pass
"""
    outcome = run(f"{program}assert n == 5, n", replace(LIMITS, processes=5))
    assert outcome.status == "passed", outcome.stderr_end


@pytest.mark.parametrize(
    "program",
    [
        "x = bytearray(2**30)",
        "x = b'x'\nwhile True: x += x",
        "x = []\nwhile True: x.append(bytes(2**20))",
        "x = [0] * 10**12",
        "x = '9' * 10**11",
    ],
)
def test_a_memory_bomb_is_out_of_memory(run: Run, program: str) -> None:
    assert run(program).status == "out of memory"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import mmap; mmap.mmap(-1, 2**30)", "Cannot allocate memory"),
        ("import os; os.memfd_create('x')", "Operation not permitted"),
        (
            f"{LIBC}assert libc.shmget(0, ctypes.c_size_t(2**30), 0o1600) >= 0, ctypes.get_errno()",
            "AssertionError: 1",
        ),
    ],
)
def test_memory_is_not_had_by_other_names(run: Run, program: str, reason: str) -> None:
    assert works_without_walls(program.replace("2**30", "2**20"))
    outcome = run(program)
    assert outcome.status == "failed"
    assert reason in outcome.stderr_end


@pytest.mark.parametrize(
    "program",
    [
        "while True: print('x' * 100)",
        "import sys\nwhile True: sys.stderr.write('x')",
        "import os\nwhile True: os.write(1, bytes(2**16))",
        "import os\nos.fork()\nwhile True: os.write(2, bytes(10))",
        "import os\nos.write(1, bytes(100_001))",
    ],
)
def test_endless_output_is_cut(run: Run, program: str) -> None:
    outcome = run(program)
    assert outcome.status == "too much output"
    assert len(outcome.stderr_end) <= 4000


def test_output_up_to_its_limit_passes(run: Run) -> None:
    assert run("import os; os.write(1, bytes(100_000))").status == "passed"


@pytest.mark.parametrize(
    "fill",
    [
        "open('/tmp/x', 'wb').write(bytes(2**23))",
        "for i in range(100): open(f'/tmp/{i}', 'wb').write(bytes(2**20))",
        "files = [open(f'/tmp/{i}', 'w+b', buffering=0) for i in range(50)]\n"
        "import os\nfor f in files: os.unlink(f.name)\nfor f in files: assert f.write(bytes(2**20)) == 2**20",
        "import os; os.truncate(os.open('/tmp/x', os.O_CREAT | os.O_RDWR), 2**40)",
    ],
)
def test_the_scratch_folder_holds_no_more_than_its_limit(run: Run, fill: str) -> None:
    outcome = run(fill)
    assert outcome.status == "failed"
    assert any(s in outcome.stderr_end for s in ("No space left", "File too large", "AssertionError")), outcome


def test_limits_are_not_raised_again(run: Run) -> None:
    program = """
import resource
for name in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    soft, hard = resource.getrlimit(name)
    try: resource.setrlimit(name, (hard + 1, hard + 1))
    except (ValueError, PermissionError): continue
    raise SystemExit('raised')
"""
    assert run(program).status == "passed"


FAMILY = """
import os, time
held = b'x' * {before}
for _ in range(4):
    if os.fork() == 0:
        more = b'y' * {behind}
        time.sleep(60)
time.sleep({until})
"""


def test_memory_is_counted_over_all_processes(run: Run) -> None:
    limits = replace(LIMITS, memory_bytes=2**27)
    assert run(FAMILY.format(before=0, behind=50 * 2**20, until=60), limits).status == "out of memory"
    assert run(FAMILY.format(before=50 * 2**20, behind=0, until=0.5), limits).status == "passed"  # the four share it
