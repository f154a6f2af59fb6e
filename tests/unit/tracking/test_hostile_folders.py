"""MLflow's database and artifacts lie where `record.root` says, whatever letters are in the path."""

import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine, text

from gmt.errors import UserError
from gmt.records.identity import run_id
from gmt.records.record import RunRecord
from gmt.runs.settings import RecordSettings
from gmt.tracking.mlflow_view import MlflowView
from gmt.tracking.settings import TrackingSettings

pytestmark = pytest.mark.heavy

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
HOSTILE = st.text("?%#&=+;@:\\ ~'\"<>|*$a2F0", min_size=1, max_size=8)


def tracking_in(root: Path) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{root}/mlflow.db", artifacts=f"{root}/mlartifacts", experiment="e")


@given(name=st.one_of(NAMES, HOSTILE))
@example(name="a?b")
@example(name="c%20d")
@example(name="e%2Ff")
@example(name="g#h")
@example(name="i j")
@example(name="größe")
@example(name="~nobody")
@example(name="k&mode=ro")
@settings(deadline=None)
def test_database_and_artifacts_lie_in_any_folder(name: str) -> None:
    with tempfile.TemporaryDirectory() as outside:
        root = Path(outside).resolve() / name
        tracking = tracking_in(root)
        engine = create_engine(tracking.absolute_uri)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE here (x INTEGER)"))
        engine.dispose()
        with sqlite3.connect(root / "mlflow.db") as database:
            assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("here",)]
        database.close()
        file = Path(outside) / name / "a.txt"
        file.write_text("an artifact")
        assert tracking.artifact_location is not None
        get_artifact_repository(tracking.artifact_location).log_artifact(str(file))
        assert (root / "mlartifacts" / "a.txt").read_text() == "an artifact"
        assert list(Path(outside).iterdir()) == [root]


@pytest.mark.parametrize(
    "name",
    [
        "a?b %20#c%2Fd;e=f&größe",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("a?b", "c d", "c%20d", "e%2Ff", "#", "100%")),
    ],
)
def test_a_real_store_lies_in_a_hostile_folder(name: str, tmp_path: Path) -> None:
    science = {"model": {"name": "m"}, "task": {"_target_": "a.T", "name": "t"}, "method": {"name": "g"}, "seed": 1}
    science |= {"fingerprints": {"model": "f", "task": "g"}}
    root = tmp_path / name
    record = RunRecord(root / "runs", run_id(science))
    record.create(science, {})
    record.set_status("failed", attempts=1, ended_at=1.0)
    view = MlflowView(tracking_in(root))
    assert view.sync(record, name="r", parent=None, tags={}, final=True)
    view.close()
    assert list(tmp_path.iterdir()) == [root]
    assert {path.name for path in root.iterdir()} >= {"mlflow.db", "mlartifacts", "runs"}
    assert [path.name for path in root.glob("mlartifacts/*/artifacts/*")] == ["config.json"]
    client = MlflowClient(tracking_in(root).absolute_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])  # type: ignore[union-attr]
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("root", ["x" * 300, "/".join(["x" * 200] * 30), "bytes-\udcf6", "a\0b"])
def test_a_folder_that_can_not_be_is_refused_in_a_sentence(root: str) -> None:
    with pytest.raises(UserError, match=r"^record\.root must be a (path|folder) that can be"):
        RecordSettings(root=root, log_every=1, checkpoint_every=1, evaluate_every=0, keep_weights=True)
