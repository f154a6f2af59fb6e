"""Starts a model-written program under bubblewrap; bubblewrap's command line, made here, is the sandbox.

Root needs more: its uid inside would still be root's outside, which owns files and which RLIMIT_NPROC does not limit.
So two uids are mapped for root: root's, to make the mounts, and an unused one, which the runner takes for good.
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
from gmt.evaluation.sandboxing.system_calls import known, seccomp_filter

_SCRATCH = "/tmp"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_UNUSED_UIDS = range(60578, 61184)  # systemd.io/UIDS-GIDS; a new one each time, since old kernels (< 5.14) count by uid
_END_S = 30  # time for the kernel to end the remaining processes


def missing() -> str | None:
    """Return a clause on why bubblewrap can't work here, and a remedy; None if nothing is known without a trial."""
    if shutil.which("bwrap") is None:
        return "bwrap is not on the PATH: install bubblewrap 0.7 or newer (apt install bubblewrap)"
    if not known():
        return "there is no filter of system calls for this processor: use x86_64 or aarch64"
    return visible.fault()


@contextmanager
def start(channel: socket.socket, limits: Limits) -> Iterator[Started]:
    """Start the runner in a sandbox, which ends with the block.

    Raises:
        NotStarted: its uids can't be mapped. Errors of bubblewrap itself are on the process's stderr.
    """
    with ExitStack() as stack:
        filter_out, filter_in = _pipe(stack)
        info_out, info_in = _pipe(stack)
        ready_out, ready_in = _pipe(stack)
        filter_in.write(seccomp_filter())
        filter_in.close()
        handed = (filter_out.fileno(), info_in.fileno(), ready_out.fileno())
        process = subprocess.Popen(
            [*_walls(handed, limits.scratch_bytes), *runner_command(NOBODY, limits)],
            stdin=channel.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=handed,
            start_new_session=True,  # Ctrl-C is for the caller
        )
        stack.enter_context(process)
        for file in (channel, filter_out, info_in, ready_out):
            file.close()
        sandbox = _Sandbox(process, info_out.readall())
        stack.callback(sandbox.end)
        with ready_in:  # bubblewrap waits until it is closed
            if os.getuid() == 0:
                sandbox.map_uids()
        yield Started(process=process, kill=sandbox.kill)


class _Sandbox:
    """A sandbox, by its first process: when that ends, the kernel ends all others in its pid namespace."""

    def __init__(self, bwrap: subprocess.Popen[bytes], info: bytes):
        self._bwrap = bwrap
        self._pid = int(json.loads(info)["child-pid"]) if info else 0  # 0: bubblewrap failed before it had a child
        self._pidfd = -1
        if self._pid:
            with suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(self._pid)

    def map_uids(self) -> None:
        """Map root's uid, and NOBODY to an unused uid."""
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


def _walls(handed: tuple[int, int, int], scratch_bytes: int) -> list[str]:
    """Return bubblewrap's command line, up to the command inside."""
    filter_fd, info_fd, ready_fd = handed
    namespaces = [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup")]
    if os.getuid() == 0:
        who = [
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
        who = ["--uid", str(NOBODY), "--gid", str(NOBODY)]
    variables = (("--setenv", name, value) for name, value in environment(_SCRATCH).items())
    return [
        "bwrap", *namespaces, *who, "--hostname", "sandbox", "--as-pid-1", "--die-with-parent", "--new-session",
        "--clearenv", *chain.from_iterable(variables),
        "--perms", "1777", "--size", str(scratch_bytes), "--tmpfs", _SCRATCH, *_visible(), "--remount-ro", "/",
        "--chdir", _SCRATCH, "--seccomp", str(filter_fd), "--info-fd", str(info_fd), "--",
    ]  # fmt: skip


def _visible() -> Iterator[str]:
    """Yield the arguments that show Python's files. /proc is not shown: it is not needed, and reveals the machine."""
    yield from visible.arguments()
    for device in _DEVICES:
        yield from (*visible.parents(device), "--dev-bind", device, device)


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    out, into = os.pipe()
    return stack.enter_context(FileIO(out, "r")), stack.enter_context(FileIO(into, "w"))
