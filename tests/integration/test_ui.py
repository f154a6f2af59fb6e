"""The dashboard serves on this machine and leaves nothing behind."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from gmt.commands.sync import sync
from tests.conftest import CONF
from tests.finished import done_study


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the page of the tiny study is, whose runs MLflow holds."""
    monkeypatch.chdir(tmp_path)
    done_study()
    sync(["study=tiny"], str(CONF))
    client = MlflowClient(f"sqlite:///{tmp_path}/gmt-results/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`gmt.kind` = 'sweep'")
    return f"#/experiments/{experiment.experiment_id}/runs/{parent.info.run_id}"


def test_it_serves_at_the_study_and_stops_on_ctrl_c(tmp_path: Path, store: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("mlflow", "fastapi", "flask", "datasets"):  # the server imports nothing from the current folder
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the current folder ran')\n")
    command = [Path(sys.executable).with_name("gmt"), "ui", "study=tiny", "-cd", CONF, "--port", str(port)]
    ui = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 180  # on a machine that is busy with other tests
    page = b""
    while not page and time.monotonic() < deadline:
        try:
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
        except OSError:
            time.sleep(0.3)
    ui.send_signal(signal.SIGINT)  # before the page is looked at, so that no server is left behind
    output, _ = ui.communicate(timeout=240)
    assert b"<title>MLflow</title>" in page, output
    assert ui.returncode == 0, output
    first, *last = output.splitlines()
    assert first.startswith(f"dashboard: http://127.0.0.1:{port}/{store} ")
    assert last == ["dashboard stopped"]  # no line for a request, no warning of a library
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
