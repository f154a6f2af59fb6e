"""MLflow as a view of the run records: all values come from the records, and only this file's callers write to MLflow.

Writing happens beside the training and not in it: a slow or dead server costs no training step, a lost store is
rebuilt from the records, and a value that the store has already is not written twice.
"""

import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import LifecycleStage, Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from PIL.Image import Image
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from gmt.credentials import without_user
from gmt.errors import NoAnswer
from gmt.records.record import RunRecord, State
from gmt.tracking.links import Links
from gmt.tracking.mlflow_run import NOTE, STATUS, TrackedRun, key_of
from gmt.tracking.reasons import reason
from gmt.tracking.settings import DATABASES, TrackingSettings
from gmt.tracking.sqlite import locked, use_write_ahead_log
from gmt.tracking.views import TAG, page_of, prepared_view

# With this type the experiment's page opens on training runs, and not on traces of language model calls.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_METRICS_PER_BATCH = 1000  # metrics in one batch
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)


class MlflowView:
    """An experiment of an MLflow store, to which `sync` writes run records.

    Raises:
        NoAnswer: the store does not answer.
    """

    def __init__(self, settings: TrackingSettings):
        # By default MLflow tries a server for minutes before it gives up; our callers try again later instead.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        # These log each migration of a new database, and tracebacks of faults.
        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report each call to MLflow's makers
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the URL may hold a password
        self.uri = settings.absolute_uri
        use_write_ahead_log()
        with _errors_as_no_answer(self.uri), locked(settings.database):
            _connect_once(self.uri)
            self._client = MlflowClient(tracking_uri=self.uri)
            self._experiment_id = self._find_or_create_experiment(settings)
        self._links = Links(self._client, self._experiment_id)
        self._tracked: dict[str, TrackedRun] = {}

    def prepare(self, tags: Sequence[str], note: str) -> None:
        """Write the view that `gmt ui` opens, see gmt.tracking.views, and the experiment's description.

        Args:
            tags: the tags that are columns of the view.
            note: the description, as Markdown.

        Raises:
            NoAnswer: the store does not answer.
        """
        with _errors_as_no_answer(self.uri):
            for key, value in ((TAG, prepared_view(tags)), (NOTE, note)):
                self._client.set_experiment_tag(self._experiment_id, key, value)

    def open_parent(self, name: str, identity: str, description: str, tags: Mapping[str, str]) -> str:
        """Open the parent run of a sweep, and return its MLflow id; a sweep that continues has the same parent.

        Args:
            name: the parent's name in MLflow.
            identity: a text that is the same for the same set of runs.
            description: the description on the parent's page, as Markdown.
            tags: tags to filter by.
        """
        with _errors_as_no_answer(self.uri):
            if (existing := self._find_run("gmt.sweep", identity)) is not None:
                self._client.update_run(existing, status="RUNNING")
                return existing
            tags = {"gmt.sweep": identity, "gmt.kind": "sweep", NOTE: description, **tags}
            return str(self._client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id)

    def close_parent(
        self, parent: str, *, faults: Collection[State], metrics: Mapping[str, float], description: str
    ) -> None:
        """End a parent run: as failed if a run failed, as killed if runs are only unfinished, otherwise as finished.

        Args:
            parent: its MLflow id.
            faults: the states of the runs that keep the sweep from being done.
            metrics: its counts, of which changed ones are written.
            description: the description, as Markdown.

        Raises:
            NoAnswer: the store does not answer.
        """
        with _errors_as_no_answer(self.uri):
            stored = self._client.get_run(parent).data.metrics
            for key, value in metrics.items():
                if stored.get(key, 0.0) != value:
                    self._client.log_metric(parent, key, value)
            self._client.set_tag(parent, NOTE, description)
            failed = any(STATUS.get(state) == "FAILED" for state in faults)
            self._client.set_terminated(parent, "FAILED" if failed else "KILLED" if faults else "FINISHED")

    def log_means(self, identity: str, means: Mapping[str, Mapping[int, float]]) -> None:
        """Write means to a sweep's parent run, so that MLflow's charts show each mean as a line over the steps.

        Args:
            identity: the sweep's identity.
            means: values by step, by name; values that the store has already are not written again.

        Raises:
            NoAnswer: the store does not answer.
        """
        with _errors_as_no_answer(self.uri):
            if (parent := self._find_run("gmt.sweep", identity)) is None:
                return
            now, new = int(1000 * time.time()), []
            for name, values in means.items():
                key = key_of(name)
                stored = {(metric.step, metric.value) for metric in self._client.get_metric_history(parent, key)}
                new += [Metric(key, value, now, step) for step, value in values.items() if (step, value) not in stored]
            for start in range(0, len(new), _METRICS_PER_BATCH):
                self._client.log_batch(parent, metrics=new[start : start + _METRICS_PER_BATCH])

    def log_report(self, identity: str, files: Sequence[Path], figures: Mapping[str, Image]) -> None:
        """Put a study's report on its parent run, if there is one: files, and figures as images that the page shows.

        Raises:
            NoAnswer: the store does not answer.
        """
        with _errors_as_no_answer(self.uri):
            if (parent := self._find_run("gmt.sweep", identity)) is None:
                return
            for path in files:
                self._client.log_artifact(parent, str(path), "report")
            now = int(1000 * time.time())
            for name, image in figures.items():
                self._client.log_image(parent, image, key=name, step=0, timestamp=now, synchronous=True)

    def log_result(self, identity: str, description: str) -> bool:
        """Put a description on a sweep's parent run; return whether there is one.

        Raises:
            NoAnswer: the store does not answer.
        """
        with _errors_as_no_answer(self.uri):
            if (parent := self._find_run("gmt.sweep", identity)) is not None:
                self._client.set_tag(parent, NOTE, description)
        return parent is not None

    def description(self, identity: str) -> str:
        """Return the description of a sweep's parent run; empty if there is none."""
        with _errors_as_no_answer(self.uri):
            parent = self._find_run("gmt.sweep", identity)
            return "" if parent is None else str(self._client.get_run(parent).data.tags.get(NOTE, ""))

    def pages(self, identity: str) -> tuple[str, str]:
        """Return the addresses, relative to the server's, of a sweep's runs and of its parent run with the result.

        Without a parent run, both are the address of the runs.
        """
        with _errors_as_no_answer(self.uri):
            parent = self._find_run("gmt.sweep", identity)
        return page_of(self._experiment_id), page_of(self._experiment_id, parent)

    def answers(self) -> bool:
        """Return whether the store answers a short request."""
        try:
            self._client.get_experiment(self._experiment_id)
        except STORE_ERRORS:
            return False
        return True

    def sync(self, record: RunRecord, *, name: str, parent: str | None, tags: Mapping[str, str], final: bool) -> bool:
        """Write a record to MLflow; see TrackedRun.update."""
        if not record.exists():
            return True
        if record.id not in self._tracked:
            self._tracked[record.id] = TrackedRun(self._client, self._experiment_id, self._links, record)
        return self._tracked[record.id].update(name=name, parent=parent, tags=tags, final=final)

    def release(self, record: RunRecord) -> None:
        """Let another process mirror a record."""
        if (tracked := self._tracked.pop(record.id, None)) is not None:
            tracked.close()

    def close(self) -> None:
        """Let other processes mirror the records that this one has mirrored."""
        for tracked in self._tracked.values():
            tracked.close()

    def _find_run(self, tag: str, value: str) -> str | None:
        runs = self._client.search_runs([self._experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _find_or_create_experiment(self, settings: TrackingSettings) -> str:
        experiment = self._client.get_experiment_by_name(settings.experiment)
        if experiment is not None:
            if experiment.lifecycle_stage == LifecycleStage.DELETED:
                self._client.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)
        location = settings.artifact_location
        try:
            return str(
                self._client.create_experiment(settings.experiment, artifact_location=location, tags=_EXPERIMENT_TAGS)
            )
        except MlflowException:  # another process may have made it meanwhile
            if (experiment := self._client.get_experiment_by_name(settings.experiment)) is None:
                raise
            return str(experiment.experiment_id)


def _connect_once(uri: str) -> None:
    """Connect to a database once, so that a missing one fails at once; MLflow itself would try for minutes."""
    if uri.startswith((*DATABASES, "sqlite+")):
        engine = create_engine(uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


@contextmanager
def _errors_as_no_answer(uri: str) -> Iterator[None]:
    """Raise NoAnswer if the store raises an error within the block."""
    try:
        yield
    except (*STORE_ERRORS, ImportError) as error:
        raise NoAnswer(
            f"tracking.uri must be a store that answers, got {without_user(uri)}: {reason(error)}"
        ) from error
