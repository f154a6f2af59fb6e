"""Which runs were at work on the same machine at the same time: their times say less of what an arm costs."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

Span = tuple[str, float, float]  # a machine, and from when to when a run was at work on it


def span_of(status: Mapping[str, Any], *, is_running: bool) -> Span | None:
    """Return where and when a run's last attempt was at work, from its status; None if that is not known.

    An attempt that was killed ends where its status was last written.
    """
    host, started_at = status.get("host"), status.get("started_at")
    if host is None or started_at is None:
        return None
    if is_running:
        return host, started_at, math.inf
    return host, started_at, status.get("ended_at") or status["updated_at"]


def num_beside(spans: Sequence[Span | None]) -> list[int | None]:
    """Return for each run how many of the others were at work on its machine at some time of its last attempt."""
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
