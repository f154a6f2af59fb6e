"""Reads CPU time and memory of a running program and its child processes from /proc.

Without /proc, or if the kernel does not list children there, a program seems to be asleep and to use nothing.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NOT_ASLEEP = ("R", "D")  # R: on a core or waiting for one; D: waiting for a disk; see proc_pid_stat(5)
_STATE, _TIMES, _RESIDENT = 0, slice(11, 15), 21  # fields after the name; times of the process and of reaped children


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The CPU time and memory of all processes of a program together.

    Args:
        cpu_s: seconds of CPU time so far, those of children that have ended included.
        memory_bytes: resident memory now; a page that several processes share counts for each of them.
        is_asleep: whether every thread waits for something other than a core or a disk.
    """

    cpu_s: float
    memory_bytes: int
    is_asleep: bool


def usage_of(pid: int) -> Usage:
    """Return the usage of a process and its descendants, without processes that end while they are measured."""
    cpu_s, pages, is_asleep = 0.0, 0, True
    for process in _with_descendants(pid):
        with suppress(OSError):
            fields = _fields(Path(f"/proc/{process}/stat"))
            cpu_s += sum(map(int, fields[_TIMES])) / _TICKS_PER_S
            pages += int(fields[_RESIDENT])
            is_asleep = is_asleep and all(
                _fields(thread / "stat")[_STATE] not in _NOT_ASLEEP
                for thread in Path(f"/proc/{process}/task").iterdir()
            )
    return Usage(cpu_s=cpu_s, memory_bytes=pages * _PAGE_BYTES, is_asleep=is_asleep)


def proportional_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants, with shared pages counted once; slow."""
    total = 0
    for process in _with_descendants(pid):
        with suppress(OSError):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
            total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def _with_descendants(pid: int) -> Iterator[int]:
    pending = [pid]
    while pending:
        current = pending.pop()
        yield current
        with suppress(OSError):
            for thread in Path(f"/proc/{current}/task").iterdir():
                pending += map(int, (thread / "children").read_text(encoding="ascii").split())


def _fields(stat: Path) -> list[str]:
    """Return the fields after the program's name, which may itself hold blanks and parentheses."""
    return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
