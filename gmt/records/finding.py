"""The record of a run that a user names by the beginning of its id."""

from pathlib import Path

from gmt.errors import UserError
from gmt.records.record import RunRecord


def find_record(runs: Path, begin: str) -> RunRecord:
    """The record of the run whose id begins so.

    Raises:
        UserError: no run, or more than one, begins so.
    """
    found = sorted(path.name for path in runs.glob(f"{begin}*")) if begin.isalnum() else []
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        raise UserError(f"{what} below {runs} begins with {begin!r}; `gmt plan study=NAME` lists the ids")
    return RunRecord(runs, found[0])
