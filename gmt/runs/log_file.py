"""The log.txt of a run record: what the libraries log while the run is worked on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gmt.credentials import without_secrets
from gmt.records.record import RunRecord


class _WithoutSecrets(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """A line of log.txt, its traceback included."""
        return without_secrets(super().format(record))


@contextmanager
def log_file(record: RunRecord) -> Iterator[None]:
    """What the libraries log goes to the record, not to the terminal."""
    handler = logging.FileHandler(record.folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
