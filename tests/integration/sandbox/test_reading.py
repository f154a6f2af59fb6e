"""Programs that look for what is not theirs: files, variables, other processes, networks."""

import os
import shutil
import socket
import subprocess
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
import os, sys
def seen(folder, depth):
    for entry in os.scandir(folder):
        yield entry.path
        if depth and entry.is_dir(follow_symlinks=False): yield from seen(entry.path, depth - 1)
pythons = {os.path.dirname(os.__file__), sys.executable, *sys.path}
pythons |= {os.path.realpath(path) for path in pythons}
raise SystemExit(' '.join(pythons) + ' : ' + ' '.join(seen('/', 1)))
"""
    pythons, _, paths = (part.split() for part in run(program).stderr_end.partition(" : "))
    assert "/usr/lib" in paths
    ours = ("/dev", "/etc/ld.so.cache", "/lib", "/lib64", "/usr/lib", "/usr/share/zoneinfo")
    for path in paths:
        to_python = any(Path(p).is_relative_to(path) for p in (*pythons, "/etc", "/tmp", "/usr/share/zoneinfo"))
        assert to_python or path.startswith(ours), path


def python_in(prefix: Path) -> Path:
    """A Python with this prefix, as if it were built for it, among other files of its owner."""
    for folder in ("bin", "lib"):
        (prefix / folder).mkdir(parents=True)
    python, version = Path(os.path.realpath(sys.executable)), f"python{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copy(python, prefix / "bin" / version)
    (prefix / "lib" / version).symlink_to(Path(os.__file__).parent)
    return prefix / "bin" / version


def run_by(python: Path, home: Path, program: str) -> subprocess.CompletedProcess[str]:
    """A program in the sandbox of another Python, for a user with this home."""
    code = "import sys; from tests.sandboxing import run_and_look; print(run_and_look(sys.argv[1]))"
    variables = os.environ | {"HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    command = [str(python), "-c", code, program]
    return subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("is_virtual", [False, True])
def test_what_lies_beside_python_in_its_prefix_is_not_read(tmp_path: Path, is_virtual: bool) -> None:
    home = tmp_path / "home"
    prefix = home / ".local"
    python = python_in(prefix)
    if is_virtual:
        prefix = home / "project" / ".venv"
        subprocess.run([python, "-m", "venv", "--without-pip", prefix], check=True)
        python = prefix / "bin" / "python"
    names = ("secret", "bin/secret", "bin/python-secret", "lib/secret", "pip.conf", "share/secret", "../.netrc")
    for path in (prefix / name for name in names):
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
    program = f"""
import os, sys
assert sys.prefix == {str(prefix)!r}, sys.prefix
for name in {names!r}: assert not os.path.lexists(os.path.join(sys.prefix, name)), name
"""
    done = run_by(python, home, program)
    assert "status='passed'" in done.stdout, (done.stdout, done.stderr)


@pytest.mark.parametrize(("prefix", "home"), [("home", "home"), ("apps", "apps/people/me"), ("linked", "home")])
def test_a_python_whose_prefix_holds_the_home_is_refused(tmp_path: Path, prefix: str, home: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "linked").symlink_to("home")
    done = run_by(python_in(tmp_path / prefix), tmp_path / home, "pass")
    refusal = f"the prefix of this Python, {tmp_path / prefix}"
    assert done.stderr.splitlines()[-1].startswith("gmt.errors.UserError: model-written programs run in a sandbox")
    assert refusal in done.stderr or refusal.replace("linked", "home") in done.stderr


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
        ("import socket; socket.socketpair(socket.AF_TIPC)", "Address family not supported"),
    ],
)
def test_nothing_beyond_is_reached(run: Run, program: str, reason: str) -> None:
    outcome = run(program)
    assert outcome.status == "failed"
    assert reason in outcome.stderr_end


def test_no_family_of_sockets_but_unix_and_internet_is_had(run: Run) -> None:
    program = """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
had = set()
for family in range(64):
    for kind in (1, 2, 3, 5):
        for sockets in (lambda: libc.socket(family, kind, 0), lambda: libc.socketpair(family, kind, 0, pair)):
            pair = (ctypes.c_int * 2)()
            if sockets() != -1: had.add(family)
            elif family not in (1, 2, 10): assert ctypes.get_errno() == 97, (family, kind, ctypes.get_errno())
assert had <= {1, 2, 10} and 1 in had, had
"""
    outcome = run(program)
    assert outcome.status == "passed", outcome.stderr_end
    assert run("import socket; a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'").status == "passed"
