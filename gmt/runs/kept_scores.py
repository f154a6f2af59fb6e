"""Scores and other values of a model, stored for runs that would get the same, with a digest of value and place."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from gmt.records.record import write_whole
from gmt.tasks.protocol import Score

_FOLDERS = 2  # above a file: the part of the task, and what was asked of whom

log = logging.getLogger(__name__)


def write_score(file: Path, score: Score) -> None:
    """Write a score, whole or not at all."""
    write_value(file, dataclasses.asdict(score))


def read_score(file: Path) -> Score | None:
    """Return the score that is kept; None, and a line in the log, if the file was cut, changed or lay elsewhere."""
    values = read_value(file)
    return None if values is None else Score(**values)


def write_value(file: Path, value: Any) -> None:
    """Write a plain value, whole or not at all."""
    write_whole(file, json.dumps({"score": value, "sha256": _digest(file, value)}))


def read_value(file: Path) -> Any | None:
    """Return the value that is kept; None, and a line in the log, if the file was cut, changed or lay elsewhere."""
    try:
        kept = json.loads(file.read_bytes())
        if kept["sha256"] == _digest(file, kept["score"]):
            return kept["score"]
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    log.warning("%s was changed or copied since it was written: its value is computed again", file)
    return None


def _digest(file: Path, values: Any) -> str:
    """Of a value and its place: a file that is copied elsewhere is none."""
    place = [*(folder.name for folder in file.parents[:_FOLDERS]), file.name]
    return hashlib.sha256(json.dumps([place, values], sort_keys=True).encode()).hexdigest()
