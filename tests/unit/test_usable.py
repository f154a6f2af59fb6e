"""How much of a machine a process may use."""

import os
import threading
from pathlib import Path

import pytest

from gmt import usable


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 64 cores and 100 GB of free memory, of which this process may use all."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    write(tmp_path / "proc" / "meminfo", "MemTotal: 200000000 kB\nMemFree: 1 kB\nMemAvailable: 100000000 kB\n")
    monkeypatch.setattr(usable, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(usable, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    return tmp_path


def write(file: Path, text: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def test_a_machine_without_groups_is_all_ours(machine: Path) -> None:
    assert usable.usable_cores() == 64
    assert usable.free_bytes() == 100_000_000 * 1024


@pytest.mark.parametrize("parent", ["a", "a/b", ""])
def test_the_limits_of_every_group_above_hold(machine: Path, parent: str) -> None:
    write(machine / "proc/self/cgroup", "0::/a/b")
    group = machine / "groups" / parent
    write(group / "cpu.max", "350000 100000")
    write(group / "memory.max", 10 * 2**30)
    write(group / "memory.current", 4 * 2**30)
    write(group / "memory.stat", f"anon 5\ninactive_file {2**30}\nslab 3")
    assert usable.usable_cores() == 3
    assert usable.free_bytes() == 7 * 2**30


def test_groups_without_limits_limit_nothing(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/a")
    write(machine / "groups/a/cpu.max", "max 100000")
    write(machine / "groups/a/memory.max", "max")
    write(machine / "groups/a/memory.current", 5)
    assert usable.usable_cores() == 64
    assert usable.free_bytes() == 100_000_000 * 1024


def test_groups_of_the_first_version_are_read(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "5:memory:/job\n2:cpu,cpuacct:/job\n1:name=systemd:/\n0::/")
    write(machine / "groups/cpu/job/cpu.cfs_quota_us", 200000)
    write(machine / "groups/cpu/job/cpu.cfs_period_us", 100000)
    write(machine / "groups/cpu/cpu.cfs_quota_us", -1)
    write(machine / "groups/memory/job/memory.limit_in_bytes", 8 * 2**30)
    write(machine / "groups/memory/job/memory.usage_in_bytes", 5 * 2**30)
    write(machine / "groups/memory/job/memory.stat", f"total_inactive_file {2**30}")
    assert usable.usable_cores() == 2
    assert usable.free_bytes() == 4 * 2**30


def test_a_container_that_sees_its_group_as_the_first_is_limited(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "2:cpu:/docker/0123")
    write(machine / "groups/cpu/cpu.cfs_quota_us", 50000)
    write(machine / "groups/cpu/cpu.cfs_period_us", 100000)
    assert usable.usable_cores() == 1  # half a core runs one program


def test_affinity_limits_the_cores() -> None:
    cores = os.sched_getaffinity(0)
    counted: list[int] = []

    def count() -> None:
        os.sched_setaffinity(0, {min(cores)})
        counted.append(usable.usable_cores())

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    assert counted == [1]
