"""Writes to MLflow the run records that no process mirrors."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from gmt.errors import UserError
from gmt.tracking.mirror import MirroredRun
from gmt.tracking.mlflow_view import STORE_ERRORS, MlflowView
from gmt.tracking.reasons import reason


def write_missing_records(view: MlflowView, runs: Sequence[MirroredRun], parent: str | None) -> list[str]:
    """Write to MLflow the records that no process mirrors, with a progress bar.

    Args:
        view: the view of the store.
        runs: the runs to write.
        parent: the MLflow id of the sweep's parent run, or None.

    Returns:
        A clause for each run that MLflow does not have completely.

    Raises:
        UserError: the store stopped answering.
    """
    faults = []
    for run in track(runs, "MLflow", disable=not sys.stderr.isatty(), console=Console(stderr=True)):
        try:
            if not view.sync(run.record, name=run.name, parent=parent, tags=run.tags, final=True):
                faults.append(f"{run.name} is mirrored by another process")
        except STORE_ERRORS as error:  # a fault of one run; the others are written
            if not view.answers():
                raise UserError(f"MLflow stopped answering at {run.name} ({reason(error)}); sync again") from error
            faults.append(f"MLflow refuses {run.name} ({reason(error)})")
        finally:
            view.release(run.record)
    return faults
