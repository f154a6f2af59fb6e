"""MLflow as a view of the run records: everything here is read from them, and nothing else writes to MLflow.

One writer, beside the training and not in it: a slow or dead server costs no training step, a lost store is made
again from the records, and a value that the store holds already is not written twice.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from gmt.errors import UserError
from gmt.records.record import RunRecord, State
from gmt.tracking.settings import TrackingSettings
from gmt.tracking.table import final_metrics

_BATCH = 900  # MLflow takes at most 1,000 metrics in one batch
_PARAMS = 100  # and 100 params
_VALUE_LENGTH = 6000
# The page then opens on training runs, and not on traces of language model calls.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_PARENT = "mlflow.parentRunId"
_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_NOTE = "mlflow.note.content"  # what the page shows as the description
_STATUS: Mapping[State, str] = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "interrupted": "KILLED"}


@dataclass
class _Synced:
    """How far one record has been written."""

    mlflow_id: str
    offset: int = 0
    held: set[tuple[str, int]] = field(default_factory=set)
    ended: bool = False


class MlflowView:
    """An experiment of an MLflow store, brought level with run records by `sync`.

    Raises:
        UserError: the store doesn't answer.
    """

    def __init__(self, settings: TrackingSettings):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        for noisy in ("mlflow.store.db.utils", "alembic"):  # they tell of each migration of a new database
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.uri = settings.absolute_uri
        self._client = MlflowClient(tracking_uri=self.uri)
        with _fails_fast(), _answers(self.uri):
            self._experiment_id = self._experiment(settings)
        self._synced: dict[str, _Synced] = {}

    def open_parent(self, name: str, identity: str, description: str, tags: Mapping[str, str]) -> str:
        """The parent run of a sweep; a sweep that goes on goes on below the same parent.

        Args:
            name: shown as the run's name.
            identity: the same for the same set of runs.
            description: markdown, shown on the parent's page.
            tags: to filter by.

        Returns:
            The MLflow id of the parent.
        """
        if (held := self._find("gmt.sweep", identity)) is not None:
            self._client.update_run(held, status="RUNNING")
            return held
        run = self._client.create_run(
            self._experiment_id,
            run_name=name,
            tags={"gmt.sweep": identity, "gmt.kind": "sweep", _NOTE: description, **tags},
        )
        return str(run.info.run_id)

    def close_parent(self, parent: str, *, failed: bool, metrics: Mapping[str, float]) -> None:
        """Ends a parent run with its counts."""
        for key, value in metrics.items():
            self._client.log_metric(parent, key, value)
        self._client.set_terminated(parent, "FAILED" if failed else "FINISHED")

    def log_report(self, identity: str, files: Sequence[Path]) -> str | None:
        """Puts a study's report on its parent run; returns the parent's id, None if there is none."""
        if (parent := self._find("gmt.sweep", identity)) is None:
            return None
        for path in files:
            self._client.log_artifact(parent, str(path), "report")
        return parent

    def sync(self, record: RunRecord, *, name: str, parent: str | None, tags: Mapping[str, str], final: bool) -> None:
        """Writes what the record holds and MLflow does not yet.

        Args:
            record: of the run.
            name: shown as the run's name.
            parent: the MLflow id of the sweep's parent run, or None.
            tags: to filter by.
            final: nobody will go on with the run now; until then an interrupted one may be resumed at any moment.
        """
        if not record.exists():
            return
        synced = self._synced.get(record.id) or self._begin(record, name, parent, tags)
        if synced.ended:
            return
        state = record.state()
        rows, synced.offset = record.metrics(synced.offset)
        self._log_metrics(synced, rows)
        if state in _STATUS and (final or state != "interrupted"):
            self._end(record, synced, state)

    def _begin(self, record: RunRecord, name: str, parent: str | None, tags: Mapping[str, str]) -> _Synced:
        stored = record.read("config.json")
        held = self._find("gmt.run_id", record.id)
        if held is None:
            created = self._client.create_run(
                self._experiment_id,
                run_name=name,
                tags={
                    "gmt.run_id": record.id,
                    "gmt.kind": "run",
                    **tags,
                    **({_PARENT: parent} if parent else {}),
                },
            )
            synced = _Synced(str(created.info.run_id))
            params = [Param(k, v) for k, v in _flat(stored["science"]).items()]
            for start in range(0, len(params), _PARAMS):
                self._client.log_batch(synced.mlflow_id, params=params[start : start + _PARAMS])
            self._client.log_dict(synced.mlflow_id, stored["config"], "config.yaml")
        else:
            synced = _Synced(held, held=self._held(held))
            self._client.update_run(held, status="RUNNING")
        self._synced[record.id] = synced
        return synced

    def _end(self, record: RunRecord, synced: _Synced, state: State) -> None:
        status = record.status()
        if state == "done":
            result = record.read("result.json")
            last = result["training"]["num_steps"]
            self._log_metrics(synced, [{"step": last, "time": status["ended_at"], **final_metrics(result)}])
        for name in (
            "result.json",
            "environment.json",
            "answers_before.jsonl",
            "answers_after.jsonl",
            "error.txt",
        ):
            if (record.folder / name).exists() and (name != "error.txt" or state == "failed"):
                self._client.log_artifact(synced.mlflow_id, str(record.folder / name))
        tags = [RunTag("gmt.state", state), RunTag("gmt.attempts", str(status.get("attempts", 0)))]
        if (record.folder / "environment.json").exists():
            environment = record.read("environment.json")
            tags += [
                RunTag("gmt.commit", str(environment["commit"])),
                RunTag("gmt.dirty", str(environment["dirty"])),
            ]
        if status.get("error"):
            tags.append(RunTag(_NOTE, f"**Failed:** {status['error']}\n\nThe traceback is the artifact `error.txt`."))
        self._client.log_batch(synced.mlflow_id, tags=tags)
        self._client.set_terminated(synced.mlflow_id, _STATUS[state])
        synced.ended = True

    def _log_metrics(self, synced: _Synced, rows: Sequence[Mapping[str, Any]]) -> None:
        metrics = [
            Metric(key, float(value), int(row["time"] * 1000), int(row["step"]))
            for row in rows
            for key, value in row.items()
            if key not in ("step", "time") and (key, int(row["step"])) not in synced.held
        ]
        for start in range(0, len(metrics), _BATCH):
            batch = metrics[start : start + _BATCH]
            self._client.log_batch(synced.mlflow_id, metrics=batch)
            synced.held |= {(m.key, m.step) for m in batch}

    def _held(self, mlflow_id: str) -> set[tuple[str, int]]:
        keys = self._client.get_run(mlflow_id).data.metrics
        return {(key, m.step) for key in keys for m in self._client.get_metric_history(mlflow_id, key)}

    def _find(self, tag: str, value: str) -> str | None:
        found = self._client.search_runs([self._experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _experiment(self, settings: TrackingSettings) -> str:
        held = self._client.get_experiment_by_name(settings.experiment)
        if held is not None:
            return str(held.experiment_id)
        location = settings.artifact_location
        return str(self._client.create_experiment(settings.experiment, artifact_location=location, tags=_KIND))


@contextmanager
def _answers(uri: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:
        shown = _CREDENTIALS.sub("://", uri)
        reason = _CREDENTIALS.sub("://", str(error).strip().split("\n")[0])[:300]
        raise UserError(f"tracking.uri must be a store that answers, got {shown}: {reason}") from error


@contextmanager
def _fails_fast() -> Iterator[None]:
    """Asks a server once: by default MLflow asks for minutes before it gives up."""
    before = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
        if before is not None:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = before


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"[:250]] = str(item)[:_VALUE_LENGTH]
    return flat
