"""What is written to an sqlite store directly equals, row by row, what MLflow's client writes."""

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from gmt.tracking.batches import end_run, log_batch
from gmt.tracking.mlflow_view import MlflowView
from gmt.tracking.settings import TrackingSettings

pytestmark = pytest.mark.heavy

Batch = tuple[list[Metric], list[Param], list[RunTag]]
TABLES = ("metrics", "latest_metrics", "params", "tags", "runs")
OWN = ("run_uuid", "artifact_uri", "start_time")  # of each run
# In this order: a first batch; an earlier step and the same values again; later values; earlier values alone; values
# that are no numbers; a tag anew, and one that is too long; a param again.
BATCHES: Sequence[Batch] = (
    ([Metric("loss", 1.5, 10, 1), Metric("loss", 1.25, 20, 2), Metric("loss", 1.25, 20, 2)], [Param("a", "1")], []),
    ([Metric("loss", 9.0, 5, 0), Metric("loss", 1.25, 20, 2), Metric("x", 1.0, 30, 1)], [Param("b", "2")], []),
    ([Metric("x", 2.0, 30, 1), Metric("x", 0.5, 30, 1), Metric("loss", 0.5, 40, 3)], [], [RunTag("t", "old")]),
    ([Metric("loss", 7.0, 15, 1), Metric("x", 0.25, 30, 1)], [], []),
    ([Metric("nan", math.nan, 1, 1), Metric("inf", math.inf, 1, 1), Metric("low", -math.inf, 1, 1)], [], []),
    ([], [], [RunTag("t", "new"), RunTag("note", "long " * MAX_TAG_VAL_LENGTH)]),
    ([], [Param("a", "1"), Param("c", "")], []),
)
REFUSED: Sequence[Batch] = (
    ([Metric("a:/../b", 1.0, 1, 1)], [], []),
    ([], [Param("a", "1"), Param("a", "1")], []),
    ([Metric("loss", 1.0, 1, step) for step in range(1001)], [], []),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store."""
    folder = tmp_path_factory.mktemp("store")
    MlflowView(TrackingSettings(uri=f"sqlite:///{folder}/m.db", artifacts=str(folder), experiment="e"))
    return folder


@pytest.fixture
def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/m.db")


def new_run(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    return str(client.create_run(experiment.experiment_id, run_name="run").info.run_id)


def rows(folder: Path, run_id: str) -> dict[str, list[dict[str, Any]]]:
    with sqlite3.connect(folder / "m.db") as database:
        database.row_factory = sqlite3.Row
        found = {table: database.execute(f"select * from {table} where run_uuid = ?", [run_id]) for table in TABLES}
        return {
            table: sorted((row | dict.fromkeys(OWN) for row in some), key=repr)
            for table, some in ((table, map(dict, cursor)) for table, cursor in found.items())
        }


def test_each_batch_leaves_the_rows_that_the_client_leaves(folder: Path, client: MlflowClient) -> None:
    theirs, ours = new_run(client), new_run(client)
    for metrics, params, tags in BATCHES:
        client.log_batch(theirs, metrics=metrics, params=params, tags=tags)
        log_batch(client, ours, metrics, params, tags)
        assert rows(folder, ours) == rows(folder, theirs)
    client.set_terminated(theirs, "FAILED", end_time=50)
    end_run(client, ours, "FAILED", 50)
    assert rows(folder, ours) == rows(folder, theirs)
    assert len(rows(folder, ours)["metrics"]) == 12
    assert client.get_run(ours).data.metrics["loss"] == 0.5


@pytest.mark.parametrize("batch", REFUSED, ids=["key", "param twice", "too many"])
def test_a_batch_that_mlflow_refuses_is_refused_whole(folder: Path, client: MlflowClient, batch: Batch) -> None:
    run_id = new_run(client)
    before = rows(folder, run_id)
    with pytest.raises(MlflowException):
        log_batch(client, run_id, *batch)
    assert rows(folder, run_id) == before


def test_a_deleted_run_takes_no_values(client: MlflowClient) -> None:
    run_id = new_run(client)
    client.delete_run(run_id)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        log_batch(client, run_id, [Metric("loss", 1.0, 1, 1)], [], [])
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        end_run(client, run_id, "FINISHED", 1)
