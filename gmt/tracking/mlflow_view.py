"""MLflow as a view of the run records: everything here is read from them, and nothing else writes to MLflow.

One writer, beside the training and not in it: a slow or dead server costs no training step, a lost store is made
again from the records, and a value that the store holds already is not written twice.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.tracking.mlflow_run import NOTE, TrackedRun
from gmt.tracking.settings import TrackingSettings
from gmt.tracking.sqlite import writes_without_waiting

# The page then opens on training runs, and not on traces of language model calls.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_CREDENTIALS = re.compile(r"://[^/@\s]*@")


class MlflowView:
    """An experiment of an MLflow store, brought level with run records by `sync`.

    Raises:
        UserError: the store doesn't answer.
    """

    def __init__(self, settings: TrackingSettings):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        for noisy in ("mlflow.store.db.utils", "alembic"):  # they tell of each migration of a new database
            logging.getLogger(noisy).setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would tell its makers of each call
        self.uri = settings.absolute_uri
        writes_without_waiting()
        self._client = MlflowClient(tracking_uri=self.uri)
        with _fails_fast(), _answers(self.uri):
            self._experiment_id = self._experiment(settings)
        self._tracked: dict[str, TrackedRun] = {}

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
            tags={"gmt.sweep": identity, "gmt.kind": "sweep", NOTE: description, **tags},
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
        """Brings MLflow level with a record; see TrackedRun.update."""
        if not record.exists():
            return
        if record.id not in self._tracked:
            self._tracked[record.id] = TrackedRun(self._client, self._experiment_id, record)
        self._tracked[record.id].update(name=name, parent=parent, tags=tags, final=final)

    def close(self) -> None:
        """Lets other processes follow what this one has followed."""
        for tracked in self._tracked.values():
            tracked.close()

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
