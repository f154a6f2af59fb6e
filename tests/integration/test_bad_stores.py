"""A store that can't be written: the report is made all the same, and one sentence says what is the matter."""

import sqlite3
from pathlib import Path

import pytest

from gmt.commands.plan import planned
from gmt.commands.sync import sync
from tests.conftest import CONF, Gmt
from tests.finished import finish

STUDY = ("study=tiny", "--config-dir", str(CONF))


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the tiny study, done and tracked."""
    monkeypatch.chdir(tmp_path)
    plan, _ = planned(["study=tiny"], str(CONF))
    for number, each in enumerate(plan.runs):
        finish(each, 0.5 + number / 100)
    sync(["study=tiny"], str(CONF))
    return tmp_path / "gmt-results/mlflow.db"


def _is_said(gmt: Gmt, reason: str) -> None:
    reported = gmt("report", *STUDY)
    assert reported.returncode == 0, reported.stderr
    assert "report/index.html" in reported.stdout
    assert "warning: the report is not in MLflow: tracking.uri must be a store that answers" in reported.stdout
    assert reason in reported.stdout
    synced = gmt("sync", *STUDY)
    assert (synced.returncode, synced.stdout) == (2, "")
    assert "error: tracking.uri must be a store that answers, got sqlite:///" in synced.stderr
    assert reason in synced.stderr
    assert "Traceback" not in synced.stderr


@pytest.mark.slow  # it is waited for, twice
def test_a_database_that_is_locked(database: Path, gmt: Gmt) -> None:
    with sqlite3.connect(database) as other:
        other.execute("BEGIN IMMEDIATE")
        _is_said(gmt, "database is locked")
        other.rollback()


@pytest.mark.slow
def test_a_database_that_is_read_only(database: Path, gmt: Gmt) -> None:
    with sqlite3.connect(database) as store:  # root may write to any file: a trigger stands for the missing right
        for table in ("tags", "metrics", "runs"):
            for what in ("INSERT", "UPDATE"):
                store.execute(
                    f"CREATE TRIGGER no_{what}_{table} BEFORE {what} ON {table} "
                    "BEGIN SELECT RAISE(ABORT, 'attempt to write a readonly database'); END"
                )
    _is_said(gmt, "attempt to write a readonly database")


def test_a_store_of_another_version(database: Path, gmt: Gmt) -> None:
    with sqlite3.connect(database) as store:
        store.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    _is_said(gmt, "0123456789ab")


def test_no_database_at_all(database: Path, gmt: Gmt) -> None:
    for beside in database.parent.glob("mlflow.db-*"):
        beside.unlink()
    database.write_text("not a database, and longer than the header of one, which has a hundred bytes " * 2)
    _is_said(gmt, "file is not a database")
