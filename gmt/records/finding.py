"""Finds the record of a run by the first characters of its id."""

from pathlib import Path

from gmt.errors import UserError
from gmt.records.record import RunRecord


def find_record(runs: Path, prefix: str) -> RunRecord:
    """Return the record of the run whose id begins with `prefix`.

    Raises:
        UserError: no run's id begins with it, or the ids of several runs do.
    """
    ids = sorted(path.name for path in runs.glob(f"{prefix}*")) if prefix.isalnum() else []
    if len(ids) != 1:
        subject = "no run" if not ids else f"{len(ids)} runs"
        raise UserError(
            f"{subject} below {runs} {'have' if ids else 'has'} an id that begins with {prefix!r}; "
            "`gmt plan study=NAME` lists the ids"
        )
    return RunRecord(runs, ids[0])
