"""Measurements of finished runs: files in diagnostics/ of a run's record. The run itself does not depend on them.

A file holds a digest of its values and its place, and the hashes of the measured weights. A file that was cut, changed
or copied from elsewhere, or whose run has other weights now, counts as missing; the run stays done.
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
_KEY_LENGTH = 16  # hex digits, as in a run id


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The numbers that a diagnostic measured on a run, or on a pair of runs.

    Args:
        diagnostic: the name of the diagnostic.
        settings: the diagnostic's settings in the form that identifies them.
        code: the versions of the code that measured, see gmt.runs.code_versions.
        weights: the hash of the trained weights by run id, for the run and the other run of a pair.
        other: the id of the other run of a pair; None for one run.
        shown: title and panels of the default figure, see gmt.diagnostics.protocol.Shown.
        rows: layer, matrix, name and value of each number.
        seconds: the time that the measurement took.
        device: the device that measured.
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
    """Return the file of a diagnosis; its name depends on the diagnostic, its settings and the other run of a pair."""
    key = hashlib.sha256(json.dumps(canonical(settings), sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]
    name = "-".join([diagnostic, key, *([] if other is None else [other])])
    return record.folder / _FOLDER / f"{name}.json"


def weights_of(record: RunRecord) -> str:
    """Return the hash of the weights that a finished run ended with."""
    return record.result().weights_sha256


def write_diagnosis(file: Path, diagnosis: Diagnosis) -> None:
    """Write a diagnosis into its file, whole or not at all."""
    values = asdict(diagnosis)
    write_whole(file, json.dumps({"diagnosis": values, "sha256": _digest(file, values)}) + "\n")


def read_diagnosis(file: Path) -> Diagnosis | None:
    """Return the diagnosis in a file; None if the file is missing or changed, or the run's weights have changed."""
    try:
        stored = json.loads(file.read_bytes())
        values = stored["diagnosis"]
        if stored["sha256"] != _digest(file, values):
            return None
        diagnosis = Diagnosis(**values)
    except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
        return None
    runs = file.parents[2]
    is_current = all(
        RunRecord(runs, id).exists() and weights_of(RunRecord(runs, id)) == sha256
        for id, sha256 in diagnosis.weights.items()
    )
    return diagnosis if is_current else None


def diagnoses_of(record: RunRecord) -> list[Diagnosis]:
    """Return all diagnoses of a run, including those of pairs in which the run is the first."""
    files = sorted((record.folder / _FOLDER).glob("*.json"))
    return [diagnosis for file in files if (diagnosis := read_diagnosis(file)) is not None]


def _digest(file: Path, values: Any) -> str:
    place = [file.parents[1].name, file.name]
    return hashlib.sha256(json.dumps([place, values], sort_keys=True).encode()).hexdigest()
