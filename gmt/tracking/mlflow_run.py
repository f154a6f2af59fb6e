"""One run record as one MLflow run: what has been written, and what remains.

A store is asked as rarely as can be: what is new goes in one batch, the MLflow id is kept beside the record, and files
go to the artifact store directly. One process at a time follows a record, under a lock that can't outlive it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from gmt.records.record import NOWHERE, RunRecord, State, write_whole
from gmt.tracking.table import final_metrics

NOTE = "mlflow.note.content"  # what the page shows as the description
PARENT = "mlflow.parentRunId"
_STATUS: Mapping[State, str] = {
    "done": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
}
_FILES = ("config.json", "result.json", "environment.json", "answers_before.jsonl", "answers_after.jsonl", "error.txt")
_METRICS = 900  # MLflow takes at most 1,000 metrics in one batch
_OTHERS = 100  # and 100 params, 100 tags
_VALUE_LENGTH = 6000
_KEY_LENGTH = 250


class TrackedRun:
    """A record and its MLflow run; `update` brings it level.

    Args:
        client: of the store.
        experiment_id: where a new MLflow run is made.
        record: of the run; it exists.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, record: RunRecord):
        self._client, self._experiment_id, self._record = client, experiment_id, record
        self._lock = FileLock(record.folder / "mlflow.lock", timeout=0, thread_local=False)
        self._run: Run | None = None
        self._position = NOWHERE
        self._held: set[tuple[str, int]] = set()
        self._params: list[Param] = []
        self.ended = False

    def update(self, *, name: str, parent: str | None, tags: Mapping[str, str], final: bool) -> None:
        """Writes what the record holds and MLflow does not yet; leaves it to another process that follows the record.

        Args:
            name: shown as the run's name.
            parent: the MLflow id of the sweep's parent run, or None.
            tags: to filter by.
            final: nobody will go on with the run now; until then an interrupted one may be resumed at any moment.
        """
        if self.ended:
            return
        try:
            self._lock.acquire()
        except Timeout:
            return
        if self._run is None:
            self._run = self._found(parent, tags) or self._created(name, parent, tags)
        state = self._record.state()
        rows, position = self._record.metrics(self._position)
        ends = state in _STATUS and (final or state != "interrupted")
        last = self._last_row() if ends and state == "done" else []
        self._write([*rows, *last], self._last_tags(state) if ends else [])
        self._position = position
        if ends:
            self._end(state)

    def close(self) -> None:
        """Lets another process follow the record."""
        self._lock.release(force=True)

    def _found(self, parent: str | None, tags: Mapping[str, str]) -> Run | None:
        """The MLflow run that an earlier process made for the record, if the store still has it."""
        path = self._id_file()
        if not path.exists():
            return None
        try:
            run = self._client.get_run(json.loads(path.read_text())["mlflow_run_id"])
        except MlflowException:
            return None
        self._client.update_run(run.info.run_id, status="RUNNING")
        new = dict(tags) | ({PARENT: parent} if parent else {})
        self._client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in new.items()])
        keys = run.data.metrics
        self._held = {(k, m.step) for k in keys for m in self._client.get_metric_history(run.info.run_id, k)}
        return run

    def _created(self, name: str, parent: str | None, tags: Mapping[str, str]) -> Run:
        own = {"gmt.run_id": self._record.id, "gmt.kind": "run"}
        run = self._client.create_run(
            self._experiment_id, run_name=name, tags={**own, **tags, **({PARENT: parent} if parent else {})}
        )
        write_whole(self._id_file(), json.dumps({"mlflow_run_id": run.info.run_id}))
        science = self._record.read("config.json")["science"]
        self._params = [Param(key, value) for key, value in _flat(science).items()]
        return run

    def _id_file(self) -> Path:
        store = hashlib.sha256(f"{self._client.tracking_uri}#{self._experiment_id}".encode()).hexdigest()[:12]
        return self._record.folder / f"mlflow-{store}.json"

    def _write(self, rows: Sequence[Mapping[str, Any]], tags: Sequence[RunTag]) -> None:
        assert self._run is not None
        metrics = [
            Metric(key, float(value), int(row["time"] * 1000), int(row["step"]))
            for row in rows
            for key, value in row.items()
            if key not in ("step", "time") and (key, int(row["step"])) not in self._held
        ]
        while metrics or tags or self._params:
            batch, metrics = metrics[:_METRICS], metrics[_METRICS:]
            params, self._params = self._params[:_OTHERS], self._params[_OTHERS:]
            self._client.log_batch(self._run.info.run_id, metrics=batch, params=params, tags=tags)
            self._held |= {(m.key, m.step) for m in batch}
            tags = []

    def _last_row(self) -> list[dict[str, Any]]:
        result = self._record.read("result.json")
        time, step = self._record.status()["ended_at"], result["training"]["num_steps"]
        return [{"step": step, "time": time, **final_metrics(result)}]

    def _last_tags(self, state: State) -> list[RunTag]:
        status = self._record.status()
        tags = [RunTag("gmt.state", state), RunTag("gmt.attempts", str(status.get("attempts", 0)))]
        if (self._record.folder / "environment.json").exists():
            environment = self._record.read("environment.json")
            tags += [RunTag(f"gmt.{key}", str(environment[key])) for key in ("commit", "dirty")]
        if status.get("error") and state != "done":
            tags.append(RunTag(NOTE, f"**{state}:** {status['error']}\n\nA traceback is the artifact `error.txt`."))
        return tags

    def _end(self, state: State) -> None:
        assert self._run is not None
        artifacts = get_artifact_repository(self._run.info.artifact_uri)
        for name in _FILES:
            if (self._record.folder / name).exists() and (name != "error.txt" or state in ("failed", "diverged")):
                artifacts.log_artifact(str(self._record.folder / name))  # type: ignore[no-untyped-call]
        self._client.set_terminated(self._run.info.run_id, _STATUS[state])
        self.ended = True
        self.close()


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"[:_KEY_LENGTH]] = str(item)[:_VALUE_LENGTH]
    return flat
