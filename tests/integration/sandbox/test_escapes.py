"""Programs that ask the kernel for a way out."""

import os
import signal

import pytest

from gmt.evaluation.sandboxing.system_calls import refused
from tests.conftest import needs_bubblewrap
from tests.integration.sandbox.attacks import LIBC
from tests.sandboxing import Run

pytestmark = needs_bubblewrap


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
