"""Hostile programs, each a real one. An attack's program comes to its last line, and so passes, if the attack worked.

As root the suite runs twice: as root and, with the system's Python, as a user who is not.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gmt.evaluation.sandboxing import sandbox
from gmt.evaluation.sandboxing.sandbox import run_all, run_python
from gmt.evaluation.sandboxing.starting import NotStarted
from gmt.evaluation.sandboxing.system_calls import refused
from tests.processes import wait_for
from tests.sandboxing import (
    AS_NOBODY,
    LIMITS,
    REPOSITORY,
    SYSTEM_PYTHON,
    Run,
    namespace_of,
    namespaces_noted,
    nobody_can_run_it,
    processes_in,
    run_and_look,
    run_as_nobody,
)

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt install bubblewrap")

NOBODY_NEEDS = "needs root, and a Python 3.11 of the system, to be somebody else"
PYTHONS = [sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)]
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.fixture(params=["caller", pytest.param("nobody", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a program in the sandbox and sees that nothing is left of it."""
    if request.param == "caller":
        return run_and_look
    if not nobody_can_run_it():
        pytest.skip(NOBODY_NEEDS)
    return run_as_nobody


def works_without_walls(program: str) -> bool:
    """Whether an attack does what it says where nothing stops it."""
    limits = replace(LIMITS, processes=100_000)
    return run_python(program, limits, run_untrusted_code_without_sandbox=True).status == "passed"


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


# What it takes.

FORK_BOMB = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""


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


# What it reads.


def fails_to_read(run: Run, path: str | Path) -> None:
    program = f"open({str(path)!r}, 'rb').read()"
    assert works_without_walls(program)
    outcome = run(program)
    assert outcome.status == "failed"
    assert "No such file or directory" in outcome.stderr_end


def test_variables_are_not_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    monkeypatch.setenv("PYTHONSTARTUP", "a-secret")
    outcome = run("import os; raise SystemExit(repr(os.environ) + repr(os.environb))")
    assert "HOME" in outcome.stderr_end
    assert "secret" not in outcome.stderr_end


def test_files_in_the_machines_tmp_are_not_read(run: Run) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        fails_to_read(run, file.name)
    assert run(f"import os; assert {Path(file.name).parent.name!r} not in os.listdir('/tmp')").status == "passed"


def test_files_at_home_are_not_read(run: Run) -> None:
    with tempfile.NamedTemporaryFile(dir=Path.home()) as file:
        fails_to_read(run, file.name)


def test_the_repository_is_not_read(run: Run) -> None:
    for path in (REPOSITORY / "pyproject.toml", Path(sandbox.__file__)):
        fails_to_read(run, path)


def test_only_pythons_folders_are_seen(run: Run) -> None:
    program = """
import os
def seen(folder, depth):
    for entry in os.scandir(folder):
        yield entry.path
        if depth and entry.is_dir(follow_symlinks=False): yield from seen(entry.path, depth - 1)
raise SystemExit(' '.join(seen('/', 1)))
"""
    paths = run(program).stderr_end.split()
    assert "/usr/lib" in paths
    ours = ("/dev", "/etc/ld.so.cache", "/lib", "/lib64", "/usr")
    for path in paths:
        to_python = any(Path(p).is_relative_to(path) or Path(path).is_relative_to(p) for p in PYTHONS)
        assert to_python or path in ("/etc", "/tmp") or path.startswith(ours), path


@pytest.mark.parametrize(
    "path",
    ["/proc/1/root/etc/passwd", "/proc/1/environ", "/proc/self/environ", "/proc/1/cmdline", "/etc/passwd", "/dev/mem"],
)
def test_other_processes_and_accounts_are_not_read(run: Run, path: str) -> None:
    outcome = run(f"open({path!r}, 'rb').read()")
    assert outcome.status == "failed"
    assert "No such file or directory" in outcome.stderr_end


def test_no_file_of_ours_is_handed_over(run: Run) -> None:
    program = """
import os, stat
kinds = []
for fd in range(1024):
    try: mode = os.fstat(fd).st_mode
    except OSError: continue
    kinds.append('null' if stat.S_ISCHR(mode) else 'pipe' if stat.S_ISFIFO(mode) else stat.filemode(mode)[0])
assert kinds == ['null', 'pipe', 'pipe', 's'], kinds
"""
    outcome = run(program)
    assert outcome.status == "passed", outcome.stderr_end


# Where it reaches.


@pytest.fixture
def server() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        threading.Thread(target=_answer, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]


def _answer(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        connection.close()


def test_a_server_on_this_machine_is_not_reached(run: Run, server: int) -> None:
    program = f"import socket; socket.create_connection(('127.0.0.1', {server}), timeout=5)"
    assert works_without_walls(program)
    outcome = run(program)
    assert outcome.status == "failed"
    assert "ConnectionRefusedError" in outcome.stderr_end  # its own loopback


def test_an_abstract_socket_of_this_machine_is_not_reached(run: Run) -> None:
    name = f"\0gmt-{os.getpid()}"
    program = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(name)
        listening.listen()
        assert works_without_walls(program)
        assert run(program).status == "failed"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import socket; socket.create_connection(('1.1.1.1', 53), timeout=5)", "Network is unreachable"),
        ("import socket; socket.getaddrinfo('example.com', 443)", "gaierror"),
        (
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.0.1', 9))",
            "Network is unreachable",
        ),
        ("import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", "Address family not supported"),
        ("import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "Address family not supported"),
    ],
)
def test_nothing_beyond_is_reached(run: Run, program: str, reason: str) -> None:
    outcome = run(program)
    assert outcome.status == "failed"
    assert reason in outcome.stderr_end


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
    program = """
import os, shutil
for folder in ('/dev', '/etc', os.path.dirname(os.__file__) + '/json', '/root', '/home', '/work'):
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


DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.closerange(0, 64)
        time.sleep(10**6)
    os._exit(0)
os.wait()
"""


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


@pytest.mark.parametrize("python", [[sys.executable], [*AS_NOBODY, SYSTEM_PYTHON]], ids=["caller", "nobody"])
def test_a_sandbox_ends_with_a_caller_who_is_killed(python: list[str]) -> None:
    if python[-1] == SYSTEM_PYTHON and not nobody_can_run_it():
        pytest.skip(NOBODY_NEEDS)
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
            wait_for(lambda: len(processes_in([namespace])) == 2, timeout_s=20, every_s=0.01)
            time.sleep(0.2)  # the program's own time
        finally:
            caller.kill()
    try:
        wait_for(lambda: not processes_in([namespace]), timeout_s=20)
    finally:
        os.close(namespace)


# How it breaks out.


@pytest.mark.parametrize(
    "call",
    [
        "libc.unshare(0x10000000)",  # CLONE_NEWUSER
        "libc.unshare(0x00020000)",  # CLONE_NEWNS
        "libc.mount(b'none', b'/', None, 0x1020, None)",  # MS_REMOUNT | MS_BIND: writable again
        "libc.mount(b'proc', b'/tmp', b'proc', 0, None)",
        "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)",
        "libc.umount2(b'/tmp', 2)",
        "libc.chroot(b'/tmp')",
        "libc.sethostname(b'x', 1)",
        "libc.setns(0, 0)",
        "libc.ptrace(16, 1, 0, 0)",  # PTRACE_ATTACH
        "libc.ptrace(0, 0, 0, 0)",  # PTRACE_TRACEME
        "libc.setuid(0)",
        "libc.setgid(0)",
        "libc.setgroups(1, (ctypes.c_uint * 1)(0))",
        "libc.mknod(b'/tmp/disk', 0o60600, 0xfe00)",
        "libc.reboot(0x1234567)",
        "libc.nice(-5)",
    ],
)
def test_what_needs_a_right_is_refused(run: Run, call: str) -> None:
    outcome = run(f"{LIBC}assert {call} == -1\nraise SystemExit(str(ctypes.get_errno()))")
    assert outcome.stderr_end in {"1", "13", "22"}, outcome  # EPERM, EACCES; EINVAL for an id that does not exist


def test_no_capability_is_left(run: Run) -> None:
    program = f"""{LIBC}
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
data = (ctypes.c_uint32 * 6)()
assert libc.capget(header, data) == 0
assert [data[i] for i in (0, 1, 3, 4)] == [0] * 4, 'effective and permitted'
assert libc.prctl(39, 0, 0, 0, 0) == 1, 'PR_GET_NO_NEW_PRIVS'
assert libc.prctl(21, 0, 0, 0, 0) == 2, 'PR_GET_SECCOMP'
import os
assert os.getresuid() == os.getresgid() == (65534,) * 3
assert libc.syscall(435, 0, 0) == -1 and ctypes.get_errno() == 38, 'clone3'
"""
    outcome = run(program)
    assert outcome.status == "passed", outcome.stderr_end


def test_the_refused_system_calls_are_refused(run: Run) -> None:
    program = f"""{LIBC}
for name, number in {refused()!r}.items():
    ctypes.set_errno(0)
    assert libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 1, (name, ctypes.get_errno())
"""
    outcome = run(program)
    assert outcome.status == "passed", outcome.stderr_end


def test_a_new_user_namespace_is_refused_to_clone_as_well(run: Run) -> None:
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    program = f"{LIBC}assert libc.syscall({number}, 0x10000000 | 17, 0, 0, 0, 0) == -1\nassert ctypes.get_errno() == 1"
    outcome = run(program)
    assert outcome.status == "passed", outcome.stderr_end


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is x86's")
def test_the_same_calls_under_other_numbers_kill(run: Run) -> None:
    outcome = run(f"{LIBC}libc.syscall(0x40000000 | 39)")
    assert (outcome.status, outcome.exit_code) == ("failed", 128 + signal.SIGSYS)


# What the machine does.


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
    programs = ["pass", FORK_BOMB, "bytearray(2**30)", DAEMON, "while True: print('x')", "assert True"] * 2
    with namespaces_noted() as namespaces:
        outcomes = run_all(programs, replace(LIMITS, wall_time_s=2), at_once=4)
        assert len(namespaces) == len(programs)
        assert not processes_in(namespaces)
    expected = ["passed", "timed out", "out of memory", "passed", "too much output", "passed"] * 2
    assert [outcome.status for outcome in outcomes] == expected
    open_files = len(os.listdir("/proc/self/fd"))
    run_all(["pass"] * 8, LIMITS, at_once=4)
    assert len(os.listdir("/proc/self/fd")) == open_files
