"""The frozen plan of a sweep: a file with the config of every run, so that later edits do not change the sweep.

A job reads its config from this file and imports the classes that the config names, so it must notice a changed line.
Each job therefore receives the digest of its line. The run id would not do, since it leaves out settings such as
resources.
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


def new_sweep(plan: Plan) -> Path:
    """Return a path for the folder of a new sweep, without making the folder; a file STOP in it stops the sweep."""
    return plan.folder / "sweeps" / f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}"


def freeze(todo: Sequence[PlannedRun], folder: Path) -> None:
    """Make the folder of a sweep, and write the plan of its runs into it."""
    folder.mkdir(parents=True)
    with open(os.open(folder / _PLAN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(map(_line, todo))


def _line(planned: PlannedRun) -> str:
    row = {"run_id": planned.run.id, "label": planned.point.label, "config": _masked(planned.run.config)}
    return json.dumps(row) + "\n"


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without passwords; the texts of a task stay unchanged, since jobs read them from the plan."""
    return {group: without_secrets(part, is_data=group != "tracking") for group, part in config.items()}


def job_of(folder: Path, planned: PlannedRun) -> str:
    """Return the override that names a run of a frozen plan; the job that does the run needs no other override."""
    return f"+planned_run='{folder}#{planned.run.id}#{_digest(_line(planned).encode())}'"


def thaw(reference: str) -> tuple[str, Mapping[str, Any], Path]:
    """Return the id and the config of a run of a frozen plan, and the path of the file that stops its sweep.

    Raises:
        UserError: there is no such plan, the plan has no such run, or the run was changed since the sweep began.
    """
    folder, run_id, digest = [*reference.rsplit("#", 2), "", ""][:3]
    path = Path(folder) / _PLAN
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if run_id.encode() in line and (row := object_of(line, path))["run_id"] == run_id:
                    if _digest(line) != digest:
                        raise UserError(f"run {run_id} in {path} was changed after the sweep wrote it; sweep again")
                    return run_id, row["config"], Path(folder) / STOP
    raise UserError(f"planned_run must name a run of a sweep's plan, got {reference!r}")
