"""Stores scores and other values, so that runs that need the same ones compute them once.

A file holds a digest of its value and its path, so that a file that was changed or copied elsewhere is not used.
"""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from gmt.records.record import write_whole
from gmt.tasks.protocol import Score

_FOLDERS = 2  # the folders above a file that its digest covers: the part of the task, and the hash of model and task

log = logging.getLogger(__name__)


def write_score(file: Path, score: Score) -> None:
    """Write a score, whole or not at all."""
    write_value(file, dataclasses.asdict(score))


def read_score(file: Path) -> Score | None:
    """Return the stored score; log a warning and return None if the file was cut, changed or copied from elsewhere."""
    values = read_value(file)
    return None if values is None else Score(**values)


def write_value(file: Path, value: Any) -> None:
    """Write a plain value, whole or not at all."""
    write_whole(file, json.dumps({"score": value, "sha256": _digest(file, value)}))


def read_value(file: Path) -> Any | None:
    """Return the stored value; log a warning and return None if the file was cut, changed or copied from elsewhere."""
    try:
        stored = json.loads(file.read_bytes())
        if stored["sha256"] == _digest(file, stored["score"]):
            return stored["score"]
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    log.warning("%s was changed or copied since it was written: its value is computed again", file)
    return None


def _digest(file: Path, values: Any) -> str:
    """Return the digest of a value and the last parts of its path."""
    path = [*(folder.name for folder in file.parents[:_FOLDERS]), file.name]
    return hashlib.sha256(json.dumps([path, values], sort_keys=True).encode()).hexdigest()
