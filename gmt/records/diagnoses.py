"""What was measured on a finished run: files in diagnostics/ of its record, which the run itself does not depend on.

A file holds a digest of itself and of its place, and names the weights that it is of. One that was cut, changed or
copied, or whose run has been done anew since, counts as if it were not there; the run stays what it is.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gmt.records.identity import canonical
from gmt.records.record import RunRecord, write_whole

_FOLDER = "diagnostics"
_KEY_LENGTH = 16  # hex digits, as of a run id


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a diagnostic found on a run, or on a pair.

    Args:
        diagnostic: its name.
        settings: of the diagnostic, in the form that it is known by.
        code: that it was made by, see gmt.runs.code_versions.
        weights: run id -> hash of the trained weights, of the run and of the other of a pair.
        other: the id of the other run of a pair; None for one run.
        shown: title and panels of the default figure, see gmt.diagnostics.protocol.Shown.
        rows: layer, matrix, name and value of each number.
        seconds: that it took.
        device: where it was computed.
    """

    diagnostic: str
    settings: Mapping[str, Any]
    code: Mapping[str, str]
    weights: Mapping[str, str]
    other: str | None
    shown: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    seconds: float
    device: str


def file_of(record: RunRecord, diagnostic: str, settings: Mapping[str, Any], other: str | None = None) -> Path:
    """Return where a diagnosis lies: one file for each diagnostic, its settings and the other run of a pair."""
    key = hashlib.sha256(json.dumps(canonical(settings), sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]
    name = "-".join([diagnostic, key, *([] if other is None else [other])])
    return record.folder / _FOLDER / f"{name}.json"


def weights_of(record: RunRecord) -> str:
    """Return the hash of the weights that a finished run ended with."""
    return record.result().weights_sha256


def write_diagnosis(file: Path, diagnosis: Diagnosis) -> None:
    """Write a diagnosis in its place, whole or not at all."""
    values = asdict(diagnosis)
    write_whole(file, json.dumps({"diagnosis": values, "sha256": _digest(file, values)}) + "\n")


def read_diagnosis(file: Path) -> Diagnosis | None:
    """Return what a file holds; None without one, or if it is not what was written there, or of other weights."""
    try:
        kept = json.loads(file.read_bytes())
        values = kept["diagnosis"]
        if kept["sha256"] != _digest(file, values):
            return None
        found = Diagnosis(**values)
    except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
        return None
    runs = file.parents[2]
    is_current = all(
        RunRecord(runs, id).exists() and weights_of(RunRecord(runs, id)) == sha256
        for id, sha256 in found.weights.items()
    )
    return found if is_current else None


def diagnoses_of(record: RunRecord) -> list[Diagnosis]:
    """Return all that was measured on a run, pairs of which it is the first among them."""
    files = sorted((record.folder / _FOLDER).glob("*.json"))
    return [found for file in files if (found := read_diagnosis(file)) is not None]


def _digest(file: Path, values: Any) -> str:
    place = [file.parents[1].name, file.name]
    return hashlib.sha256(json.dumps([place, values], sort_keys=True).encode()).hexdigest()
