"""Measures the CPU seconds of a command and its descendants from another process."""

import psutil

DRIVER, WORKERS, OTHERS = "driver", "workers", "Ray's own"


class Processes:
    """A process and its descendants, with the CPU seconds that each process had used when it was last seen.

    Args:
        pid: the id of the process.
    """

    def __init__(self, pid: int):
        self._pid = pid
        self._seconds: dict[int, tuple[str, float]] = {}

    def measure(self) -> None:
        """Read the CPU seconds of the processes that run now."""
        for process in _with_descendants(self._pid):
            try:
                times, name = process.cpu_times(), process.name()
            except psutil.Error:  # the process has ended
                continue
            is_worker = name.startswith("ray::") and "Agent" not in name
            kind = DRIVER if process.pid == self._pid else WORKERS if is_worker else OTHERS
            self._seconds[process.pid] = kind, times.user + times.system

    def has_workers(self) -> bool:
        """Return whether a worker of Ray was seen."""
        return any(kind == WORKERS for kind, _ in self._seconds.values())

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of the driver, of Ray's workers and of the other processes."""
        sums = dict.fromkeys((DRIVER, WORKERS, OTHERS), 0.0)
        for kind, seconds in self._seconds.values():
            sums[kind] += seconds
        return sums


def _with_descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
