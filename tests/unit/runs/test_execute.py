"""What all attempts of a run took, by its status alone."""

from typing import Any

import pytest

from gmt.runs.execute import _seconds


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        ({}, 0),
        ({"state": "failed", "ended_at": 9.0}, 0),  # it died before it began
        ({"state": "interrupted", "seconds_before": 5.0, "started_at": 100.0, "ended_at": 103.0}, 8),
        ({"state": "running", "seconds_before": 5.0, "started_at": 100.0, "ended_at": 90.0}, None),  # killed
        ({"state": "failed", "seconds_before": None, "started_at": 100.0, "ended_at": 103.0}, None),  # killed before
        ({"state": "stopped", "seconds_before": 0.0, "started_at": 100.0}, None),  # nobody saw it end
    ],
)
def test_seconds_add_up_or_are_unknown(status: dict[str, Any], seconds: float | None) -> None:
    assert _seconds(status) == seconds
