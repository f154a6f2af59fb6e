"""A run's failure in its record, and in a sentence."""

import logging
import traceback

from gmt.credentials import without_secrets
from gmt.records.record import RunRecord, State
from gmt.runs.failures import RETRIES


def failure_in_words(what: str, error: Exception, run_id: str) -> str:
    """Return a sentence that names a failure's type, says what it says, and where its traceback is shown."""
    return f"{what}: {type(error).__name__}: {error}; `gmt show {run_id}` shows where"


def record_failure(record: RunRecord, error: Exception, kind: str) -> None:
    """Write a failure and its traceback into the record, within the handler of the error.

    A failure that may pass leaves the run to be gone on with; a full disk leaves no trace but the raised error.

    Args:
        record: the run's record.
        error: the error that ended the run.
        kind: the kind of failure, see gmt.runs.failures.
    """
    state: State = "interrupted" if kind in RETRIES else "diverged" if kind == "diverged" else "failed"
    try:
        (record.folder / "error.txt").write_text(
            without_secrets(traceback.format_exc()), encoding="utf-8", errors="backslashreplace"
        )
        record.note_failure(state, kind, f"{type(error).__name__}: {error}")
    except OSError as full:
        logging.getLogger(__name__).error("the failure of run %s can't be recorded: %s", record.id, full)
