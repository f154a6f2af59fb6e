"""What all attempts of a run took, by its status alone, and that its log is masked."""

import logging
from pathlib import Path
from typing import Any

import pytest

from gmt.records.record import RunRecord
from gmt.runs.execute import _seconds
from gmt.runs.log_file import log_file

SECRET, TOKEN = "s3cret-s3cret", "hf_" + "aB3" * 11


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


def test_a_log_of_a_run_is_masked_with_its_tracebacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    record = RunRecord(tmp_path, "id")
    record.folder.mkdir()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # xdist can't pass on half a letter that pytest captured
    with log_file(record):
        logging.getLogger("a.library").warning("GET https://me:%s@host with %s", "p4ssword", TOKEN)
        try:
            raise ValueError(f"no answer to {SECRET}")
        except ValueError:
            logging.getLogger("a.library").exception("it failed \udcff")
    text = (record.folder / "log.txt").read_text(encoding="utf-8")
    assert "GET https://me:***@host with ***" in text
    assert "ValueError: no answer to ***" in text
    assert SECRET not in text
