"""Counts runs that ran on the same machine at the same time, since their times say less about an arm's cost."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

Span = tuple[str, float, float]  # a machine, and the times at which a run's work on it began and ended


def span_of(status: Mapping[str, Any], *, is_running: bool) -> Span | None:
    """Return the machine and the times of a run's last attempt, from its status; None if they are unknown.

    A killed attempt counts as ended when its status was last written.
    """
    host, started_at = status.get("host"), status.get("started_at")
    if host is None or started_at is None:
        return None
    if is_running:
        return host, started_at, math.inf
    return host, started_at, status.get("ended_at") or status["updated_at"]


def num_beside(spans: Sequence[Span | None]) -> list[int | None]:
    """Return, for each run, how many other runs were on its machine at some time during its last attempt."""
    starts: dict[str, list[float]] = {}
    ends: dict[str, list[float]] = {}
    for span in spans:
        if span is not None:
            starts.setdefault(span[0], []).append(span[1])
            ends.setdefault(span[0], []).append(span[2])
    for times in (*starts.values(), *ends.values()):
        times.sort()
    return [
        None
        if span is None
        else max(bisect_left(starts[span[0]], span[2]) - bisect_right(ends[span[0]], span[1]) - 1, 0)
        for span in spans
    ]
