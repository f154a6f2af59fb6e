"""`gmt ui`: MLflow's own server on the project's store, on this machine only, until Ctrl-C."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from gmt.commands.plan import planned
from gmt.commands.terminal import say
from gmt.composition import Composer, hydra_on
from gmt.credentials import without_secrets, without_user
from gmt.errors import UserError
from gmt.runs.build import settings_of
from gmt.runs.settings import RecordSettings
from gmt.tracking.settings import TrackingSettings

_HOST = "127.0.0.1"
_FIRST_PORT = 5000  # MLflow's own default
_TRIES = 100
_PATIENCE_S = 10.0
_START_S = 60.0
_POLL_S = 0.2
# Of the server only errors are shown, which it writes to the standard error output.
_GREETING = b"[MLflow] Security middleware enabled"
_QUIET = {"MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore", "MLFLOW_DISABLE_TELEMETRY": "true"}


def serve(overrides: Sequence[str], config_dir: str | None, port: int | None, *, browser: bool) -> None:
    """Serves the dashboard until it is stopped.

    Args:
        overrides: with `study=NAME` the page opens at that study.
        config_dir: a config folder of the user's own, or None.
        port: None takes the first free one from 5000 on.
        browser: whether a browser is opened at the page.

    Raises:
        UserError: nothing is tracked, the store is a server already, or the port is taken.
    """
    with hydra_on(config_dir):
        config = Composer().compose_plain(overrides)
    settings_of("record", RecordSettings, config["record"])  # the store of conf/tracking/sqlite lies below its root
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    if tracking.uri is None:
        raise UserError("gmt ui needs tracking.uri, got null (tracking=none)")
    if tracking.uri.startswith(("http://", "https://")):
        raise UserError(f"tracking.uri is a server already: open {without_user(tracking.uri)} in a browser")
    page = _page(overrides, config_dir, tracking)
    chosen = _free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(chosen), "--workers", "1"]
    # it imports from this folder by itself, and writes a line for each request
    command += ["--uvicorn-opts", f"--log-level warning --app-dir {shlex.quote(_installed())}"]
    # in the environment, where no process list shows a password that the URI may hold
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": tracking.absolute_uri, "PYTHONSAFEPATH": "1"} | _QUIET
    address = f"http://{_HOST}:{chosen}/{page}"
    say(f"dashboard: {address}   (Ctrl-C stops it)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the server whichever way we are ended
    server = subprocess.Popen(
        command, start_new_session=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    complaints = threading.Thread(target=_pass_on, args=[server], name="gmt-ui", daemon=True)
    complaints.start()
    try:
        if browser:
            _open(address, server)
        code = server.wait()
    except KeyboardInterrupt:
        code = _stop(server)
    complaints.join(_POLL_S)
    if code not in (0, -signal.SIGTERM, -signal.SIGINT):
        raise UserError(f"the MLflow server ended with code {code}; its own words stand above")


def _installed() -> str:
    """Return the folder that MLflow is imported from."""
    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parents[1])


def _pass_on(server: "subprocess.Popen[bytes]") -> None:
    """Shows what the server complains of, without passwords, until its last process has ended."""
    assert server.stderr is not None
    for line in server.stderr:
        if not line.startswith(_GREETING):
            sys.stderr.write(without_secrets(line.decode(errors="replace")))
            sys.stderr.flush()


def _page(overrides: Sequence[str], config_dir: str | None, tracking: TrackingSettings) -> str:
    """The page of the study that is asked for."""
    if not any(each.startswith("study=") for each in overrides):
        return ""
    from gmt.tracking.mlflow_view import MlflowView

    plan, _ = planned(overrides, config_dir)
    return MlflowView(tracking).page(plan.identity)


def _open(address: str, server: "subprocess.Popen[bytes]") -> None:
    """Opens a browser as soon as the server answers."""
    deadline = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address.partition("#")[0], timeout=1).close()
        except OSError:
            time.sleep(_POLL_S)
            continue
        if not webbrowser.open(address):
            say("there is no browser to open here; the address stands above")
        return


def _stop(server: "subprocess.Popen[bytes]") -> int:
    os.killpg(server.pid, signal.SIGTERM)  # MLflow's server is several processes, in a session of their own
    try:
        server.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    say("dashboard stopped")
    return 0


def _free_port(asked: int | None) -> int:
    candidates = [asked] if asked is not None else range(_FIRST_PORT, _FIRST_PORT + _TRIES)
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except (OSError, OverflowError):  # taken, or no port at all
                continue
            return port
    raise UserError(f"--port must be free on {_HOST}, got {asked if asked is not None else 'none from 5000 on'}")
