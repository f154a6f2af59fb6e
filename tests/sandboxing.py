"""Runs programs in the sandbox and looks for what is left of them; imports nothing that a bare Python lacks."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from unittest import mock

from gmt.evaluation.sandboxing.limits import Limits
from gmt.evaluation.sandboxing.sandbox import Outcome, run_python
from gmt.evaluation.sandboxing.starting import MachineBusy

REPOSITORY = Path(__file__).parents[1]
SYSTEM_PYTHON = "/usr/bin/python3"
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
LIMITS = Limits(
    wall_time_s=10, cpu_time_s=5, memory_bytes=2**29, processes=8, output_bytes=100_000, scratch_bytes=2**22
)

Run = Callable[..., Outcome]


def run_and_look(program: str, limits: Limits = LIMITS) -> Outcome:
    """The outcome of a program in the sandbox, of which nothing may be left."""
    with namespaces_noted() as namespaces:
        outcome = run_python(program, limits)
        assert namespaces, "no sandbox was seen"
        assert not processes_in(namespaces), "processes outlived their sandbox"
    return outcome


def run_until_judged(program: str, limits: Limits, **how: bool) -> Outcome:
    """Run a program again while the machine is too busy to judge it."""
    while True:
        with suppress(MachineBusy):
            return run_python(program, limits, **how)


def run_as_nobody(program: str, limits: Limits = LIMITS) -> Outcome:
    """The same for a caller who is not root, with the system's Python."""
    done = subprocess.run(
        [*AS_NOBODY, SYSTEM_PYTHON, "-m", "tests.sandboxing"],
        input=json.dumps([program, asdict(limits)]),
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    return Outcome(**json.loads(done.stdout))


@functools.cache
def nobody_can_run_it() -> bool:
    """Whether the caller is root and can run the sandbox as another user."""
    if os.getuid() != 0:
        return False
    code = "import sys; import gmt.evaluation.sandboxing.sandbox; sys.exit(sys.version_info < (3, 11))"
    try:
        tried = subprocess.run(
            [*AS_NOBODY, SYSTEM_PYTHON, "-c", code], cwd=REPOSITORY, capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return tried.returncode == 0


@contextmanager
def namespaces_noted() -> Iterator[list[int]]:
    """The pid namespaces of sandboxes made meanwhile, as open files, so that their numbers aren't used again."""
    namespaces: list[int] = []
    real = os.pidfd_open

    def noting(pid: int) -> int:
        namespaces.append(namespace_of(pid))
        return real(pid)

    try:
        with mock.patch.object(os, "pidfd_open", noting):
            yield namespaces
    finally:
        for file in namespaces:
            os.close(file)


def namespace_of(pid: int) -> int:
    """The pid namespace of a process, as an open file."""
    return os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)


def processes_in(namespaces: list[int]) -> list[int]:
    """The processes on this machine in one of these pid namespaces, as far as the caller may know."""
    numbers = {os.fstat(file).st_ino for file in namespaces}
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _namespace_number(pid) in numbers]


def _namespace_number(pid: str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:  # ended, or another user's
        return None


if __name__ == "__main__":
    program, limits = json.load(sys.stdin)
    print(json.dumps(asdict(run_and_look(program, Limits(**limits)))))
