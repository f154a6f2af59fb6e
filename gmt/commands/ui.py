"""`gmt ui`: MLflow's own server on the project's store, on this machine only, until Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from gmt.commands.terminal import say
from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs.build import settings_of
from gmt.runs.settings import RecordSettings
from gmt.tracking.settings import TrackingSettings

_HOST = "127.0.0.1"
_FIRST_PORT = 5000  # MLflow's own default
_TRIES = 100
_PATIENCE_S = 10.0


def serve(overrides: Sequence[str], config_dir: str | None, port: int | None) -> None:
    """Serves the dashboard until it is stopped.

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
        raise UserError(f"tracking.uri is a server already: open {tracking.uri} in a browser")
    chosen = _free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(chosen)]
    command += ["--backend-store-uri", tracking.absolute_uri, "--workers", "1"]
    say(f"dashboard: http://{_HOST}:{chosen}   (Ctrl-C stops it)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the server whichever way we are ended
    server = subprocess.Popen(command, start_new_session=True)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        code = _stop(server)
    if code not in (0, -signal.SIGTERM, -signal.SIGINT):
        raise UserError(f"the MLflow server ended with code {code}; its own words stand above")


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
            except OSError:
                continue
            return port
    raise UserError(f"--port must be free on {_HOST}, got {asked if asked is not None else 'none from 5000 on'}")
