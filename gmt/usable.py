"""Returns the cores and the memory that this process may use, of which a machine may have more.

A scheduler or a container may leave less to a process. On Linux, /proc and the control groups of both versions say how
much (the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use at a time."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for group in _groups(""):
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            cores = min(cores, int(quota) / int(period))  # raises ValueError for "max"
    for group in _groups("cpu"):
        quota_us = _number(group / "cpu.cfs_quota_us")
        if quota_us is not None and quota_us > 0:
            cores = min(cores, quota_us / (_number(group / "cpu.cfs_period_us") or quota_us))
    return max(1, int(cores))


def free_bytes() -> int:
    """Return the memory that this process and its children may still take; page cache counts as free."""
    free = _field(_PROC / "meminfo", "MemAvailable:") * 1024
    for controller, limit, usage, cache in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in _groups(controller):
            limit_bytes, used_bytes = _number(group / limit), _number(group / usage)
            if limit_bytes is not None and used_bytes is not None:
                free = min(free, limit_bytes - used_bytes + _field(group / "memory.stat", cache))
    return max(0, free)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folder of this process's control group, and those above it, whose limits hold too.

    Args:
        controller: a controller of version 1, e.g. `memory`; empty for version 2, which has one tree for all.
    """
    with suppress(OSError):
        for line in (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                inside = Path(path.lstrip("/"))  # a container may see its own group as the root
                yield from (_GROUPS / controller / part for part in (inside, *inside.parents))


def _number(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text(encoding="ascii"))
    return None


def _field(file: Path, name: str) -> int:
    """Return the number that follows a name at the beginning of a line; 0 without such a line."""
    with suppress(OSError):
        for line in file.read_text(encoding="ascii").splitlines():
            if line.split()[:1] == [name]:
                return int(line.split()[1])
    return 0
