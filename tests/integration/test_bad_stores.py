"""A store that can't be written: the report is made all the same, and one sentence says what is the matter."""

import sqlite3
from pathlib import Path

import pytest

from gmt.commands.sync import sync
from tests.conftest import CONF, Gmt
from tests.finished import done_study

STUDY = ("study=tiny", "--config-dir", str(CONF))


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the tiny study, done and tracked."""
    monkeypatch.chdir(tmp_path)
    done_study()
    sync(["study=tiny"], str(CONF))
    return tmp_path / "gmt-results/mlflow.db"


def why(gmt: Gmt) -> str:
    """What `gmt sync` says; `gmt report` says the same and makes the report all the same."""
    reported, synced = gmt("report", *STUDY), gmt("sync", *STUDY)
    assert (reported.returncode, synced.returncode, synced.stdout) == (0, 2, "")
    assert "report/index.html" in reported.stdout
    assert "Traceback" not in reported.stderr + synced.stderr
    rule = "tracking.uri must be a store that answers, got sqlite:///"
    assert f"warning: the report is not in MLflow: {rule}" in reported.stdout
    (sentence,) = (line for line in synced.stderr.splitlines() if line.startswith(f"error: {rule}"))
    return sentence


@pytest.mark.slow  # it is waited for, twice
def test_a_database_that_is_locked(database: Path, gmt: Gmt) -> None:
    with sqlite3.connect(database) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "database is locked" in why(gmt)
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
    assert "attempt to write a readonly database" in why(gmt)


def test_a_store_of_another_version(database: Path, gmt: Gmt) -> None:
    with sqlite3.connect(database) as store:
        store.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    assert "0123456789ab" in why(gmt)


def test_no_database_at_all(database: Path, gmt: Gmt) -> None:
    for beside in database.parent.glob("mlflow.db-*"):
        beside.unlink()
    database.write_text("not a database, and longer than the header of one, which has a hundred bytes " * 2)
    assert "file is not a database" in why(gmt)
