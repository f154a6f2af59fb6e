"""Writes values and ends of runs to MLflow: into an sqlite database directly, into other stores by the client.

MLflow's client makes an object of each value that it writes, and of each that a run has when the run ends, which takes
six times as long. Short runs have a hundred params and a few steps, so that this was most of a sweep's work in the
driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.orm import Session

_SQLITE = "sqlite"


def log_batch(
    client: MlflowClient, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
) -> None:
    """Write values of a run as `MlflowClient.log_batch` does; a param that the run has stays as it is.

    Args:
        client: the client of the store.
        run_id: the run's id in MLflow.
        metrics, params, tags: together as many as MLflow takes at once; no tag is the run's name.

    Raises:
        MlflowException: the run is deleted or unknown, a value is not allowed, or the store does not answer.
    """
    if _is_sqlite(client):
        _write(client._tracking_client.store, run_id, metrics, params, tags)
    else:
        client.log_batch(run_id, metrics=metrics, params=params, tags=tags)


def end_run(client: MlflowClient, run_id: str, status: str, end_time_ms: int) -> None:
    """End a run as `MlflowClient.set_terminated` does.

    Args:
        client: the client of the store.
        run_id: the run's id in MLflow.
        status: its last status, e.g. FINISHED.
        end_time_ms: the time of its end.

    Raises:
        MlflowException: the run is deleted or unknown, or the store does not answer.
    """
    if not _is_sqlite(client):
        client.set_terminated(run_id, status, end_time=end_time_ms)
        return
    with _active_run(client._tracking_client.store, run_id) as (_, run):
        run.status, run.end_time = status, end_time_ms


def _is_sqlite(client: MlflowClient) -> bool:
    return str(client.tracking_uri).partition(":")[0].partition("+")[0] == _SQLITE


@contextmanager
def _active_run(store: SqlAlchemyStore, run_id: str) -> Iterator[tuple[Session, Any]]:
    """Yield a transaction and the row of a run that is not deleted."""
    with store.ManagedSessionMaker(read_only=False) as session:
        run = store._get_run(session, run_id)  # type: ignore[no-untyped-call]
        store._check_run_is_active(run)  # type: ignore[no-untyped-call]
        yield session, run


def _write(
    store: SqlAlchemyStore, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
) -> None:
    from mlflow.store.tracking.dbmodels.models import SqlParam, SqlTag
    from mlflow.utils.validation import (
        _validate_batch_log_data,
        _validate_batch_log_limits,
        _validate_param_keys_unique,
    )
    from sqlalchemy.dialects.sqlite import insert

    metrics, params, tags = _validate_batch_log_data(metrics, params, tags)  # type: ignore[no-untyped-call]
    _validate_batch_log_limits(metrics, params, tags)  # type: ignore[no-untyped-call]
    _validate_param_keys_unique(params)  # type: ignore[no-untyped-call]
    with _active_run(store, run_id) as (session, _):
        if params:
            rows = [{"run_uuid": run_id, "key": param.key, "value": param.value} for param in params]
            session.execute(insert(SqlParam).on_conflict_do_nothing(), rows)
        if metrics:
            _write_metrics(session, [_row(store, run_id, metric) for metric in metrics])
        if tags:
            rows = [{"run_uuid": run_id, "key": tag.key, "value": tag.value} for tag in tags]
            statement = insert(SqlTag)
            new = {"value": statement.excluded.value}
            session.execute(statement.on_conflict_do_update(index_elements=["key", "run_uuid"], set_=new), rows)


def _write_metrics(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Write metrics, and each one's latest value, which is the greatest by step, time and value."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric
    from sqlalchemy import tuple_
    from sqlalchemy.dialects.sqlite import insert

    session.execute(insert(SqlMetric).on_conflict_do_nothing(), rows)
    latest = {row["key"]: row for row in sorted(rows, key=lambda row: (row["step"], row["timestamp"], row["value"]))}
    statement = insert(SqlLatestMetric)
    new = statement.excluded
    is_later = tuple_(new.step, new.timestamp, new.value) > tuple_(
        SqlLatestMetric.step, SqlLatestMetric.timestamp, SqlLatestMetric.value
    )
    values = {name: new[name] for name in ("value", "timestamp", "step", "is_nan")}
    statement = statement.on_conflict_do_update(index_elements=["key", "run_uuid"], set_=values, where=is_later)
    session.execute(statement, list(latest.values()))


def _row(store: SqlAlchemyStore, run_id: str, metric: Metric) -> dict[str, Any]:
    is_nan, value = store.sanitize_metric_value(metric.value)
    at = {"timestamp": metric.timestamp, "step": metric.step}
    return {"run_uuid": run_id, "key": metric.key, "value": value, "is_nan": is_nan, **at}
