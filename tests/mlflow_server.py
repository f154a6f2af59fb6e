"""A real MLflow server that tests start, kill and freeze, and what its store holds beside what the records hold."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from gmt.records.record import RunRecord
from gmt.tracking.outcomes import final_metrics
from tests.processes import free_ports, wait_for


class Server:
    """`mlflow server` on a store, in a process group of its own.

    Args:
        folder: of the artifacts, and of the sqlite database if no other store is named.
        store: the URI of the database.
    """

    def __init__(self, folder: Path, store: str | None = None):
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self._store = store or f"sqlite:///{folder}/server.db"
        self._artifacts = folder / "artifacts"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--artifacts-destination", str(self._artifacts)]
        environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": self._store, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # ten more processes, each with seconds of imports
        self._process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self._is_up, 300)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def thaw(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            wait_for(self._left_its_port, 120)  # its workers may outlive it by a moment

    def _left_its_port(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                return False
        return True

    def _is_up(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False


def assert_level(uri: str, experiment: str, records: Collection[RunRecord]) -> None:
    """MLflow holds one run for each record, ended as it did, and each of its values once."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    children = client.search_runs([found.experiment_id], "tags.`gmt.kind` = 'run'", max_results=1000)
    assert sorted(run.data.tags["gmt.run_id"] for run in children) == sorted(record.id for record in records)
    runs = {run.data.tags["gmt.run_id"]: run for run in children}
    for record in records:
        _assert_one_level(client, runs[record.id], record)


def _assert_one_level(client: MlflowClient, run: Run, record: RunRecord) -> None:
    status = record.status()
    assert (run.info.status, run.info.end_time) == ("FINISHED", int(1000 * status["ended_at"]))
    rows, _ = record.metrics()
    wanted = sorted(
        (key, row["step"], int(1000 * row["time"]), value)
        for row in rows
        for key, value in row.items()
        if key not in ("step", "time")
    )
    final = final_metrics(record.result())
    held = [
        (m.key, m.step, m.timestamp, m.value)
        for key in run.data.metrics
        for m in client.get_metric_history(run.info.run_id, key)
    ]
    assert sorted(each for each in held if each[0] not in final) == wanted
    assert {key: value for key, _, _, value in held if key in final} == final
    assert len(held) == len(wanted) + len(final)
    assert run.data.params["seed"] == str(record.read("config.json")["science"]["seed"])
    assert run.data.tags["gmt.state"] == "done"
    assert {"config.json", "result.json"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    run = client.get_run(run.info.run_id)  # with its links
    assert [each.dataset.name for each in run.inputs.dataset_inputs] == [
        record.read("config.json")["science"]["task"]["name"]
    ]
    assert len(run.inputs.model_inputs) == 1
