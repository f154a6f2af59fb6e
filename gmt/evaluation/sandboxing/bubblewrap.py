"""Starts a model-written program under bubblewrap, with a command line that defines the sandbox.

A sandbox that root starts maps two uids of the machine. It makes its mounts as root. The program must not run as root,
which owns files and which RLIMIT_NPROC does not limit, so the runner changes to an unused uid for good.
"""

import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from itertools import chain
from pathlib import Path

from gmt.evaluation.sandboxing import visible
from gmt.evaluation.sandboxing.limits import Limits
from gmt.evaluation.sandboxing.program_runner import NOBODY
from gmt.evaluation.sandboxing.starting import NotStarted, Started, environment, runner_command
from gmt.evaluation.sandboxing.system_calls import has_filter, seccomp_filter

_SCRATCH = "/tmp"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_UNUSED_UIDS = range(60578, 61184)  # systemd.io/UIDS-GIDS; a new one each time, since old kernels (< 5.14) count by uid
_END_S = 30  # time for the kernel to end the remaining processes


def missing() -> str | None:
    """Return a clause on why bubblewrap can't work here, and a remedy; None if only a trial can show a fault."""
    if shutil.which("bwrap") is None:
        return "bwrap is not on the PATH: install bubblewrap 0.7 or newer (apt install bubblewrap)"
    if not has_filter():
        return "there is no filter of system calls for this processor: use x86_64 or aarch64"
    return visible.fault()


@contextmanager
def start(channel: socket.socket, limits: Limits) -> Iterator[Started]:
    """Start the runner in a sandbox, which ends with the block.

    Raises:
        NotStarted: the sandbox's uids can't be mapped. Errors of bubblewrap itself are on the process's stderr.
    """
    with ExitStack() as stack:
        filter_out, filter_in = _pipe(stack)
        info_out, info_in = _pipe(stack)
        ready_out, ready_in = _pipe(stack)
        filter_in.write(seccomp_filter())
        filter_in.close()
        inherited = (filter_out.fileno(), info_in.fileno(), ready_out.fileno())
        process = subprocess.Popen(
            [*_bwrap_command(inherited, limits.scratch_bytes), *runner_command(NOBODY, limits)],
            stdin=channel.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=inherited,
            start_new_session=True,  # so that Ctrl-C reaches only the caller
        )
        stack.enter_context(process)
        for file in (channel, filter_out, info_in, ready_out):
            file.close()
        sandbox = _Sandbox(process, info_out.readall())
        stack.callback(sandbox.end)
        with ready_in:  # bubblewrap waits until this pipe is closed
            if os.getuid() == 0:
                sandbox.map_uids()
        yield Started(process=process, kill=sandbox.kill)


class _Sandbox:
    """A sandbox, ended through its first process: the kernel then ends all others in its pid namespace."""

    def __init__(self, bwrap: subprocess.Popen[bytes], info: bytes):
        self._bwrap = bwrap
        self._pid = int(json.loads(info)["child-pid"]) if info else 0  # 0: bubblewrap failed before it had a child
        self._pidfd = -1
        if self._pid:
            with suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(self._pid)

    def map_uids(self) -> None:
        """Map root to root, and NOBODY to an unused uid of the machine."""
        if self._pidfd < 0:
            return
        unused = random.choice(_UNUSED_UIDS)
        try:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{self._pid}/{name}").write_text(f"0 0 1\n{NOBODY} {unused} 1\n", encoding="utf-8")
        except OSError as error:
            raise NotStarted(f"root can't map uid {unused}: {error}") from error

    def kill(self) -> None:
        """Kill every process inside; bubblewrap then ends too."""
        if self._pidfd < 0:
            self._bwrap.kill()
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self) -> None:
        """Kill the remaining processes, and wait until they are gone."""
        self.kill()
        if self._pidfd >= 0:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            gone = poll.poll(_END_S * 1000)
            os.close(self._pidfd)
            if not gone:
                raise RuntimeError(f"process {self._pid} of a sandbox could not be ended")


def _bwrap_command(inherited: tuple[int, int, int], scratch_bytes: int) -> list[str]:
    """Return bubblewrap's command line, up to the command that runs inside the sandbox."""
    filter_fd, info_fd, ready_fd = inherited
    namespaces = [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup")]
    if os.getuid() == 0:
        identity = [
            "--cap-drop",
            "ALL",
            "--cap-add",
            "CAP_SETUID",
            "--cap-add",
            "CAP_SETGID",
            "--userns-block-fd",
            str(ready_fd),
        ]
    else:
        identity = ["--uid", str(NOBODY), "--gid", str(NOBODY)]
    variables = (("--setenv", name, value) for name, value in environment(_SCRATCH).items())
    return [
        "bwrap", *namespaces, *identity, "--hostname", "sandbox", "--as-pid-1", "--die-with-parent", "--new-session",
        "--clearenv", *chain.from_iterable(variables),
        "--perms", "1777", "--size", str(scratch_bytes), "--tmpfs", _SCRATCH, *_visible(), "--remount-ro", "/",
        "--chdir", _SCRATCH, "--seccomp", str(filter_fd), "--info-fd", str(info_fd), "--",
    ]  # fmt: skip


def _visible() -> Iterator[str]:
    """Yield the arguments that show Python's files and devices; /proc, which would reveal the machine, is not shown."""
    yield from visible.arguments()
    for device in _DEVICES:
        yield from (*visible.parents(device), "--dev-bind", device, device)


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    out, into = os.pipe()
    return stack.enter_context(FileIO(out, "r")), stack.enter_context(FileIO(into, "w"))
