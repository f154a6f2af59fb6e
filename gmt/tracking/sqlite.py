"""MLflow's sqlite databases without a wait for the disk at each commit, and with readers beside the writer."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.engine import Engine

_PATIENCE_MS = 20_000  # for another process that is writing; sqlite lets one write at a time


@lru_cache(maxsize=1)
def writes_without_waiting() -> None:
    """From now on every sqlite connection of this process uses a write-ahead log.

    With synchronous=NORMAL a loss of power can cost the last commits and never the database's integrity (sqlite's
    documentation of the pragma); what is lost is in the run records. Otherwise each commit waits for the disk twice.
    """
    event.listen(Engine, "connect", _on_connect)


def _on_connect(connection: Any, record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")


@contextmanager
def alone(database: Path | None) -> Iterator[None]:
    """Holds a lock beside an sqlite database: MLflow makes its tables without one. Any other store has none."""
    if database is None:
        yield
        return
    with FileLock(f"{database}.lock"):
        yield
