"""What an MLflow server can do to a sweep: nothing. And `gmt sync` makes good what it missed, each value once."""

import re
import shlex
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gmt.records.record import RunRecord
from tests.conftest import CONF
from tests.faults.conftest import SETTINGS, Sweeps, finish, weights
from tests.mlflow_server import Server, assert_level

pytestmark = pytest.mark.faults
TRAINING = tuple(setting for setting in SETTINGS if not setting.startswith("tracking"))


class _Wrong(BaseHTTPRequestHandler):
    """Answers everything with an error."""

    def _answer(self) -> None:
        self.send_response(500)
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


def records(sweeps: Sweeps) -> list[RunRecord]:
    folder = sweeps.folder / "gmt-results/runs"
    return [RunRecord(folder, path.name) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("fault", ["killed and restarted", "killed", "frozen", "frozen for a while", "wrong"])
def test_training_goes_on_and_nothing_is_lost(
    sweeps: Sweeps, undisturbed: dict[str, str], mlflow_server: Server, fault: str
) -> None:
    tracked = (
        "study=tiny",
        "tracking=server",
        f"tracking.uri={mlflow_server.uri}",
        *TRAINING,
        "--config-dir",
        str(CONF),
    )
    sweep = sweeps.start("sweep", *tracked)
    sweeps.wait_for_checkpoint()
    if fault.startswith("frozen"):
        mlflow_server.signal(signal.SIGSTOP)
    else:
        mlflow_server.kill()
    if fault == "wrong":
        wrong = ThreadingHTTPServer(("127.0.0.1", mlflow_server.port), _Wrong)
        threading.Thread(target=wrong.serve_forever, daemon=True).start()
    elif fault == "killed and restarted":
        time.sleep(2)
        mlflow_server.start()
    elif fault == "frozen for a while":
        time.sleep(12)
        mlflow_server.signal(signal.SIGCONT)
    output = finish(sweep)
    assert "all 8 runs are done" in output
    assert weights(sweeps) == undisturbed
    if fault in ("killed", "frozen", "wrong"):
        assert "warning: MLflow does not answer" in output
        (remedy,) = {*re.findall(r"`gmt (sync .*?)` writes", output)}
        assert shlex.split(remedy)[1:] == [*tracked[:-2], "--config-dir", str(CONF)]
    if fault == "wrong":
        wrong.shutdown()
        wrong.server_close()
    if fault in ("killed", "wrong"):
        mlflow_server.start()
    if fault == "frozen":
        mlflow_server.signal(signal.SIGCONT)
    for _ in range(2):
        assert "MLflow holds 8 runs as the records do" in sweeps.run("sync", *tracked)
        assert_level(mlflow_server.uri, "tiny", records(sweeps))


def test_a_tuned_sweep_goes_on_without_its_server(sweeps: Sweeps, mlflow_server: Server) -> None:
    study = ("study=tiny_tuned", "tracking=server", f"tracking.uri={mlflow_server.uri}", "--config-dir", str(CONF))
    sweep = sweeps.start("sweep", *study)
    sweeps.wait_for(lambda: sweeps.records("result.json"))
    mlflow_server.kill()
    output = finish(sweep, timeout_s=400)  # it begins several times, when it is known what to try next
    assert len(sweeps.records("result.json")) == 12
    assert "` writes them" in output
    mlflow_server.start()
    assert "MLflow holds 12 runs as the records do" in sweeps.run("sync", *study)
    assert_level(mlflow_server.uri, "tiny_tuned", records(sweeps))
