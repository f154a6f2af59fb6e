"""The frozen plan of a sweep: every run's config as it was at the start, so that an edit meanwhile changes nothing."""

import json
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
    rows = ({"run_id": each.run.id, "label": each.point.label, "config": _masked(each.run.config)} for each in todo)
    lines = (json.dumps(row) + "\n" for row in rows)
    (folder / _PLAN).write_text("".join(lines), encoding="utf-8")
    return folder


def _masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without passwords; a task's texts stay as they are, since a job takes them from here."""
    return {group: without_secrets(part, is_data=group != "tracking") for group, part in config.items()}


def job_of(folder: Path, run_id: str) -> str:
    """The one override of a job that is to do a run of a frozen plan."""
    return f"+planned_run='{folder}#{run_id}'"


def thaw(reference: str) -> tuple[Mapping[str, Any], Path]:
    """The config of a run of a frozen plan, and the path of the file that stops its sweep.

    Raises:
        UserError: there is no such plan, or no such run in it.
    """
    folder, _, run_id = reference.rpartition("#")
    path = Path(folder) / _PLAN
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if run_id.encode() in line and (row := object_of(line, path))["run_id"] == run_id:
                    return row["config"], Path(folder) / STOP
    raise UserError(f"planned_run must name a run of a sweep's plan, got {reference!r}")
