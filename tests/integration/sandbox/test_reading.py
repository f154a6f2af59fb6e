"""Programs that look for what is not theirs: files, variables, other processes, networks."""

import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gmt.evaluation.sandboxing import sandbox
from tests.conftest import needs_bubblewrap
from tests.integration.sandbox.attacks import works_without_walls
from tests.sandboxing import REPOSITORY, Run

pytestmark = needs_bubblewrap

PYTHONS = [sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)]


# What it reads.


def reading(path: str | Path) -> str:
    return f"open({str(path)!r}, 'rb').read()"


def test_variables_are_not_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    monkeypatch.setenv("PYTHONSTARTUP", "a-secret")
    outcome = run("import os; raise SystemExit(repr(os.environ) + repr(os.environb))")
    assert "HOME" in outcome.stderr_end
    assert "secret" not in outcome.stderr_end


def test_files_in_the_machines_tmp_are_not_read(run: Run) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        assert works_without_walls(reading(file.name))
        outcome = run(reading(file.name))
    assert outcome.status == "failed"
    assert "No such file or directory" in outcome.stderr_end
    assert run(f"import os; assert {Path(file.name).parent.name!r} not in os.listdir('/tmp')").status == "passed"


def test_files_at_home_are_not_read(run: Run) -> None:
    with tempfile.NamedTemporaryFile(dir=Path.home()) as file:
        assert works_without_walls(reading(file.name))
        outcome = run(reading(file.name))
    assert outcome.status == "failed"
    assert "No such file or directory" in outcome.stderr_end


def test_the_repository_is_not_read(run: Run) -> None:
    for path in (REPOSITORY / "pyproject.toml", Path(sandbox.__file__)):
        assert works_without_walls(reading(path))
        outcome = run(reading(path))
        assert outcome.status == "failed"
        assert "No such file or directory" in outcome.stderr_end


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
    outcome = run(reading(path))
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
