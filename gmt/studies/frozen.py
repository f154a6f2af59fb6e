"""The frozen plan of a sweep: every run's config as it was at the start, so that an edit meanwhile changes nothing.

A plan is read from disk, and what it names is imported, so a job is given the digest of its line beside its run id: the
id covers no settings of where and how a run runs.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmt.credentials import without_secrets
from gmt.errors import UserError
from gmt.records.reading import object_of
from gmt.studies.plan import Plan, PlannedRun

_PLAN = "plan.jsonl"
STOP = "stop"


def freeze(plan: Plan, todo: Sequence[PlannedRun]) -> Path:
    """Writes down what a sweep is about to do.

    Returns:
        The sweep's folder, in which the file STOP stops it.
    """
    folder = plan.folder / "sweeps" / f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    with open(os.open(folder / _PLAN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(map(_line, todo))
    return folder


def _line(planned: PlannedRun) -> str:
    row = {"run_id": planned.run.id, "label": planned.point.label, "config": _masked(planned.run.config)}
    return json.dumps(row) + "\n"


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without passwords; a task's texts stay as they are, since a job takes them from here."""
    return {group: without_secrets(part, is_data=group != "tracking") for group, part in config.items()}


def job_of(folder: Path, planned: PlannedRun) -> str:
    """The one override of a job that is to do a run of a frozen plan."""
    return f"+planned_run='{folder}#{planned.run.id}#{_digest(_line(planned).encode())}'"


def thaw(reference: str) -> tuple[str, Mapping[str, Any], Path]:
    """The id and the config of a run of a frozen plan, and the path of the file that stops its sweep.

    Raises:
        UserError: there is no such plan, no such run in it, or it was changed since the sweep began.
    """
    folder, run_id, digest = [*reference.rsplit("#", 2), "", ""][:3]
    path = Path(folder) / _PLAN
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if run_id.encode() in line and (row := object_of(line, path))["run_id"] == run_id:
                    if _digest(line) != digest:
                        raise UserError(f"{path} must be as the sweep wrote it, but run {run_id} in it was changed")
                    return run_id, row["config"], Path(folder) / STOP
    raise UserError(f"planned_run must name a run of a sweep's plan, got {reference!r}")
