"""Configures MLflow's sqlite databases: commits do not wait for the disk, readers do not block the writer."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.engine import Engine

_WRITER_TIMEOUT_MS = 20_000  # to wait for another process that writes, since sqlite allows one writer at a time


@lru_cache(maxsize=1)
def use_write_ahead_log() -> None:
    """Make every later sqlite connection of this process use a write-ahead log.

    With synchronous=NORMAL a power failure can lose the last commits but not the database's integrity (sqlite's
    documentation of the pragma), and the run records have what was lost. By default each commit waits twice for the
    disk.
    """
    event.listen(Engine, "connect", _on_connect)


def _on_connect(connection: Any, record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA busy_timeout={_WRITER_TIMEOUT_MS}")


@contextmanager
def locked(database: Path | None) -> Iterator[None]:
    """Hold a lock on an sqlite database, since MLflow creates its tables without locking; other stores need none."""
    if database is None:
        yield
        return
    with FileLock(f"{database}.lock"):
        yield
