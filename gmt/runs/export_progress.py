"""Counts the steps of an export, and describes the exported entries in words."""

from collections.abc import Callable

OnProgress = Callable[[int, int], None]


class Steps:
    """Counts steps for `on_progress`."""

    def __init__(self, total: int, on_progress: OnProgress):
        self._done, self._total, self._on_progress = 0, total, on_progress

    def done(self) -> None:
        """Count one more step, and report it."""
        self._done += 1
        self._on_progress(min(self._done, self._total), self._total)


def share(num_changed: int, num_all: int) -> str:
    """Return the numbers of changed and of all entries in words."""
    return f"{num_changed:,} of {num_all:,} entries ({num_changed / num_all:.2%})"
