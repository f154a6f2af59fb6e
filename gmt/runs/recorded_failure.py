"""Writes a run's failure into its record, and describes it to the user in a sentence."""

import logging
import re
import traceback

from gmt.credentials import without_secrets
from gmt.records.record import RunRecord, State
from gmt.runs.failures import RETRIES

_COMMAND = "`gmt show {}` shows the traceback"


def failure_in_words(event: str, error: BaseException, run_id: str) -> str:
    """Return a sentence with the event, the error's type and message, and the command that shows the traceback."""
    return f"{event}: {type(error).__name__}: {error}; {_COMMAND.format(run_id)}"


def without_command(sentence: str) -> str:
    """Return a sentence of `failure_in_words` without the command, for a run whose record does not stay."""
    return re.sub("; " + _COMMAND.format(r"\w+") + "$", "", sentence)


def record_failure(record: RunRecord, error: BaseException, kind: str) -> None:
    """Write a failure and its traceback into the record; must be called while the error is being handled.

    After a failure of a kind that is retried, the run can be resumed. If the record can't be written, e.g. on a full
    disk, the failure is only logged.

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
    except OSError as write_error:
        logging.getLogger(__name__).error("the failure of run %s can't be recorded: %s", record.id, write_error)
