"""Writes the log messages of libraries into log.txt of a run's record while the run executes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gmt.credentials import without_secrets
from gmt.records.record import RunRecord


class _WithoutSecrets(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a line of log.txt, its traceback included, with secrets masked."""
        return without_secrets(super().format(record))


@contextmanager
def log_file(record: RunRecord) -> Iterator[None]:
    """Send log messages to the record's log.txt inside the block."""
    handler = logging.FileHandler(record.folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
