"""Mirrors one run record to one MLflow run: knows which values MLflow has, and which it lacks.

It calls the store as rarely as possible: new values go in one batch, the MLflow id is stored in the record's folder,
and files go to the artifact store directly. Only one process at a time mirrors a record, under a lock that ends with
the process.
"""

import hashlib
import json
import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from gmt.credentials import without_secrets
from gmt.records.digests import LARGE
from gmt.records.record import NOWHERE, RunRecord, State, write_whole
from gmt.tracking.links import Links
from gmt.tracking.outcomes import final_metrics

NOTE = "mlflow.note.content"  # the tag that MLflow's page shows as the description
PARENT = "mlflow.parentRunId"
STATUS: Mapping[State, str] = {
    "done": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "changed": "FAILED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
}
"""MLflow's status of a run that is over, by the state of its record."""
_FILES = ("config.json", "result.json", "environment.json", "answers_before.jsonl", "answers_after.jsonl", "error.txt")
_WITH_TRACEBACK: tuple[State, ...] = ("failed", "diverged")
_VALUES_PER_BATCH = 1000  # MLflow's limit for metrics, params and tags together in one batch
_PARAMS_PER_BATCH = 100  # MLflow's limit for params in one batch
_VALUE_LENGTH = 6000
_KEY_LENGTH = 250
_DIGEST_LENGTH = 8
_ALLOWED_KEY, _FORBIDDEN_CHARACTER = re.compile(r"[/\w.\- :]+"), re.compile(r"[^/\w.\- :]")
Point = tuple[str, int, int]  # a value's name, step and time in ms


class TrackedRun:
    """A record and its MLflow run; `update` brings the MLflow run up to date.

    Args:
        client: the client of the store.
        experiment_id: the experiment in which a new MLflow run is made.
        links: the links of the experiment.
        record: the run's record, which exists.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, links: Links, record: RunRecord):
        self._client, self._experiment_id, self._links, self._record = client, experiment_id, links, record
        self._lock = FileLock(record.folder / "mlflow.lock", timeout=0, thread_local=False)
        self._run: Run | None = None
        self._position = NOWHERE
        self._written: set[Point] = set()
        self._params: list[Param] = []
        self.ended = False

    def update(self, *, name: str, parent: str | None, tags: Mapping[str, str], final: bool) -> bool:
        """Write the values of the record that MLflow lacks.

        Args:
            name: the run's name in MLflow.
            parent: the MLflow id of the sweep's parent run, or None.
            tags: tags to filter by.
            final: whether nobody will resume the run; otherwise an interrupted run stays open in MLflow.

        Returns:
            True; or False, without writing, if another process mirrors the record.
        """
        if self.ended:
            return True
        try:
            self._lock.acquire()
        except Timeout:
            return False
        if self._write_changes(name, parent, tags, final):
            self.ended = True
            self.close()
        return True

    def close(self) -> None:
        """Let another process mirror the record."""
        self._lock.release(force=True)

    def _write_changes(self, name: str, parent: str | None, tags: Mapping[str, str], final: bool) -> bool:
        """Write new values; return whether the run is over and MLflow has all of it."""
        # After an error it is unknown which values were written, so the next call asks the store.
        run, self._run = self._run, None
        if run is None:
            run, self._position = self._existing_run(parent, tags) or self._create_run(name, parent, tags), NOWHERE
        ends = self._is_complete(run)
        if not ends:
            state = self._record.state(also=LARGE)
            # MLflow keeps the values that a record had before it was changed.
            is_changed = state == "changed"
            rows, position = ([], self._position) if is_changed else self._record.metrics(self._position)
            ends = state in STATUS and (final or state != "interrupted")
            metrics = _metrics([*rows, *(self._result_rows() if state == "done" else [])])
            if position[0] != self._position[0] and self._written - set(map(_point, metrics)):
                run = self._replace_run(run, name, parent, tags)
            self._write_batches(run, metrics, self._final_tags(run, state) if ends else [])
            self._position = position
            if ends:
                self._end_run(run, state)
        self._run = run
        return ends

    def _existing_run(self, parent: str | None, tags: Mapping[str, str]) -> Run | None:
        """Return the MLflow run that was made for the record earlier, reopened; None if the store has none."""
        run = self._stored_run()
        if run is None:
            return None
        if run.info.lifecycle_stage == LifecycleStage.DELETED:
            self._client.restore_run(run.info.run_id)
        wanted = dict(tags) | ({PARENT: parent} if parent else {})
        new = [RunTag(key, value) for key, value in wanted.items() if run.data.tags.get(key) != value]
        if new:
            self._client.log_batch(run.info.run_id, tags=new)
        if self._is_complete(run):
            return run
        self._client.update_run(run.info.run_id, status="RUNNING")
        histories = (self._client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
        self._written = {_point(metric) for history in histories for metric in history}
        self._params = [param for param in self._all_params() if param.key not in run.data.params]
        return run

    def _replace_run(self, run: Run, name: str, parent: str | None, tags: Mapping[str, str]) -> Run:
        """Replace an MLflow run that has steps that the record dropped when a killed run resumed from a checkpoint."""
        self._client.delete_tag(run.info.run_id, "gmt.run_id")  # so that the old run is not taken for the record's
        self._client.delete_run(run.info.run_id)
        self._written = set()
        return self._create_run(name, parent, tags)

    def _stored_run(self) -> Run | None:
        """Return the record's MLflow run, by the id in its folder or by a search; None if the store has none."""
        path = self._id_file()
        is_announced = path.exists()
        if not is_announced and not any(self._record.folder.glob("mlflow-*.json")):
            return None
        id_ = self._record.read(path.name)["mlflow_run_id"] if is_announced else None
        if id_ is None:  # a kill or a lost answer left no id, or the id was stored under another address of the store
            has_run_id = f"tags.`gmt.run_id` = '{self._record.id}'"
            runs = self._client.search_runs([self._experiment_id], has_run_id, ViewType.ALL, max_results=1)
            if runs:
                write_whole(path, json.dumps({"mlflow_run_id": runs[0].info.run_id}))
            return runs[0] if runs else None
        try:
            return self._client.get_run(id_)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            return None

    def _is_complete(self, run: Run) -> bool:
        """Return whether MLflow has all values of an ended record; the end time is written last."""
        ended_at = self._record.status().get("ended_at")
        state = STATUS.get(self._record.state())
        return state == run.info.status and ended_at is not None and run.info.end_time == int(1000 * ended_at)

    def _create_run(self, name: str, parent: str | None, tags: Mapping[str, str]) -> Run:
        identifying_tags = {"gmt.run_id": self._record.id, "gmt.kind": "run"}
        write_whole(self._id_file(), json.dumps({"mlflow_run_id": None}))
        run = self._client.create_run(
            self._experiment_id,
            start_time=int(1000 * self._record.status().get("started_at", time.time())),
            run_name=name[:_KEY_LENGTH],
            tags={**identifying_tags, **tags, **({PARENT: parent} if parent else {})},
        )
        write_whole(self._id_file(), json.dumps({"mlflow_run_id": run.info.run_id}))
        self._params = self._all_params()
        return run

    def _all_params(self) -> list[Param]:
        return [Param(key, value) for key, value in _flat(self._record.read("config.json")["science"]).items()]

    def _id_file(self) -> Path:
        store = f"{without_secrets(self._client.tracking_uri)}#{self._experiment_id}"
        return self._record.folder / f"mlflow-{hashlib.sha256(store.encode()).hexdigest()[:12]}.json"

    def _write_batches(self, run: Run, metrics: Sequence[Metric], tags: Sequence[RunTag]) -> None:
        metrics = [metric for metric in metrics if _point(metric) not in self._written]
        while metrics or tags or self._params:
            params = self._params[:_PARAMS_PER_BATCH]
            batch = metrics[: _VALUES_PER_BATCH - len(params) - len(tags)]
            self._client.log_batch(run.info.run_id, metrics=batch, params=params, tags=tags)
            self._written |= set(map(_point, batch))
            metrics, self._params, tags = metrics[len(batch) :], self._params[len(params) :], []

    def _result_rows(self) -> list[dict[str, Any]]:
        result = self._record.result()
        ended_at, step = self._record.status()["ended_at"], result.num_steps
        return [{"step": step, "time": ended_at, **final_metrics(result)}]

    def _final_tags(self, run: Run, state: State) -> list[RunTag]:
        status = self._record.status()
        tags = [RunTag("gmt.state", state), RunTag("gmt.attempts", str(status.get("attempts", 0)))]
        if state == "changed":
            return [*tags, RunTag(NOTE, f"**changed:** {self._record.change(also=LARGE)}")]
        if (self._record.folder / "environment.json").exists():
            environment = self._record.read("environment.json")
            tags += [RunTag(f"gmt.{key}", str(environment[key])) for key in ("commit", "dirty")]
        if status.get("error") and state != "done":
            has_file = state in _WITH_TRACEBACK and (self._record.folder / "error.txt").exists()
            traceback = "\n\nThe artifact `error.txt` holds the traceback." if has_file else ""
            tags.append(RunTag(NOTE, f"**{state}:** {status['error']}{traceback}"))
        elif NOTE in run.data.tags:
            tags.append(RunTag(NOTE, ""))  # clears the note of an attempt that failed
        return tags

    def _end_run(self, run: Run, state: State) -> None:
        if state != "changed":
            artifacts = get_artifact_repository(run.info.artifact_uri, tracking_uri=self._client.tracking_uri)
            for name in _FILES:
                if (self._record.folder / name).exists() and (name != "error.txt" or state in _WITH_TRACEBACK):
                    artifacts.log_artifact(str(self._record.folder / name))  # type: ignore[no-untyped-call]
            self._links.link(run, self._record)
        ended_at = self._record.status().get("ended_at") or time.time()  # a killed run has no end in its record
        self._client.set_terminated(run.info.run_id, STATUS[state], end_time=int(1000 * ended_at))


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    return [
        Metric(key_of(key), float(value), int(row["time"] * 1000), int(row["step"]))
        for row in rows
        for key, value in row.items()
        if key not in ("step", "time")
    ]


def _point(metric: Metric) -> Point:
    return metric.key, metric.step, metric.timestamp


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[key_of(f"{prefix}{key}")] = str(item)[:_VALUE_LENGTH]
    return flat


def key_of(name: str) -> str:
    """Return the MLflow key of a metric or a param: its name if MLflow allows it, else a similar one with a digest."""
    is_path = posixpath.normpath(name) == name != "." and not name.startswith(("..", "/"))
    if is_path and len(name) <= _KEY_LENGTH and _ALLOWED_KEY.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:_DIGEST_LENGTH]
    parts = [part for part in _FORBIDDEN_CHARACTER.sub("_", name).split("/") if part.strip(".")]
    key = "/".join(parts)
    key = key.lstrip(".") if key.startswith("..") else key
    return key[: _KEY_LENGTH - _DIGEST_LENGTH - 1].rstrip("/") + f"-{digest}"
