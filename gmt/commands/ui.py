"""`gmt ui`: serves MLflow's dashboard of the project's store until Ctrl-C; only the user who starts it can open it."""

import html
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from gmt.composition import Composer, hydra_on
from gmt.credentials import without_secrets, without_user
from gmt.errors import UserError
from gmt.removal import remove
from gmt.runs.build import settings_of
from gmt.runs.settings import RecordSettings
from gmt.studies.opened import planned
from gmt.terminal import printable_log, say
from gmt.tracking.settings import TrackingSettings

_HOST = "127.0.0.1"
_FIRST_PORT = 5000  # MLflow's own default
_TRIES = 100
_LOG = "ui.log"  # below record.root
_STOP_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 600.0  # a server that ends sooner closes its socket, which ends the wait
_LOG_TIMEOUT_S = 0.2
# The server imports what this process imports. A pipe carries its secrets, which no list of processes shows.
_SERVER = """
import json, sys
start = json.loads(sys.stdin.readline())
sys.path[:] = start.pop("imports")
from gmt.tracking.ui_server import serve
serve(**start)
"""
_SHORTCUT = '<!doctype html><meta http-equiv="refresh" content="0; url={link}"><a href="{link}">{link}</a>\n'


def serve(overrides: Sequence[str], config_dir: str | None, port: int | None, *, browser: bool) -> None:
    """Serve the dashboard until it is stopped.

    Args:
        overrides: the user's overrides; with `study=NAME` the link leads to that study.
        config_dir: a config folder of the user's own, or None.
        port: the port to listen at; None for the first free port from 5000 on.
        browser: whether to open a browser at the link.

    Raises:
        UserError: `tracking.uri` is null or a server, the port is taken, or the log or the server fails.
    """
    with hydra_on(config_dir):
        config = Composer().compose_plain(overrides)
    record = settings_of("record", RecordSettings, config["record"])  # also for the store of tracking=sqlite
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    if tracking.uri is None:
        raise UserError("gmt ui needs tracking.uri, got null (tracking=none)")
    if tracking.uri.startswith(("http://", "https://")):
        raise UserError(f"tracking.uri is a server already: open {without_user(tracking.uri)} in a browser")
    page = _study_page(overrides, config_dir, tracking)
    token = secrets.token_hex(16)
    with _listening_socket(port) as listener, tempfile.TemporaryDirectory(prefix="gmt-ui-") as folder:  # of mode 0700
        address = listener.getsockname()
        link = f"http://{_HOST}:{address[1]}/login/{token}{page}"
        shortcut = _shortcut(Path(folder), link)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the server whichever way we are ended
        server = _start(listener, tracking.absolute_uri, token)
        log = _new_private_file(record.runs.parent / _LOG)
        log_writer = threading.Thread(target=_copy_stderr, args=[server, log], name="gmt-ui", daemon=True)
        log_writer.start()
        try:
            listener.close()  # the server answers on its own copy of the socket
            _announce(link, shortcut, log)
            if browser and _answers(address) and not webbrowser.open(shortcut.as_uri()):
                say("no browser could be started; open the link above")
            code = server.wait()
        except KeyboardInterrupt:
            code = _stop(server)
        log_writer.join(_LOG_TIMEOUT_S)
    if code not in (0, -signal.SIGTERM, -signal.SIGINT):
        last_line = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
        raise UserError(f"the MLflow server ended with code {code}: {last_line or 'no message'}; its log is {log}")


def _start(listener: socket.socket, store: str, token: str) -> "subprocess.Popen[bytes]":
    """Start the server, and pass it the socket and its secrets."""
    start = {"store": store, "listener": listener.fileno(), "token": token, "path": secrets.token_hex(8)}
    start["imports"] = [os.path.abspath(path) for path in sys.path]
    server = subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", _SERVER],
        start_new_session=True,
        pass_fds=[listener.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert server.stdin is not None
    with suppress(BrokenPipeError):  # the server has ended, and its log says why
        server.stdin.write(json.dumps(start).encode() + b"\n")
        server.stdin.flush()  # not closed, since the server ends when its standard input is closed
    return server


def _new_private_file(log: Path) -> Path:
    """Make an empty file that only its owner can read, in place of any older one; return its path.

    Raises:
        UserError: the file can't be made.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        remove(log, log.parent)
        log.touch(mode=0o600)
    except OSError as error:
        raise UserError(f"record.root must be a folder that can be written to, got {log.parent}: {error}") from error
    return log


def _copy_stderr(server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Copy the server's standard error to a log, without passwords, until the server's last process has ended."""
    assert server.stderr is not None
    with log.open("a", encoding="utf-8") as file:
        for line in server.stderr:
            file.write(printable_log(without_secrets(line.decode(errors="replace"))))
            file.flush()


def _study_page(overrides: Sequence[str], config_dir: str | None, tracking: TrackingSettings) -> str:
    """Return the path of the study's page on the dashboard; empty if the overrides name no study."""
    if not any(text.startswith("study=") for text in overrides):
        return ""
    from gmt.tracking.mlflow_view import MlflowView

    plan, _ = planned(overrides, config_dir, leave_out=True)
    return MlflowView(tracking).pages(plan.identity)[0]


def _shortcut(folder: Path, link: str) -> Path:
    """Write a page that redirects to the link; a browser gets this file, since any user can read its arguments."""
    page = folder / "open.html"
    page.touch(mode=0o600)
    page.write_text(_SHORTCUT.format(link=html.escape(link)), encoding="utf-8")
    return page


def _announce(link: str, shortcut: Path, log: Path) -> None:
    """Print the link; if other users can read the output, print the file that holds the link instead."""
    output = os.fstat(sys.stdout.fileno()).st_mode
    if stat.S_ISREG(output) and output & 0o077:
        say(f"dashboard: {shortcut} holds the link, since others can read this output   (Ctrl-C stops the dashboard)")
    else:
        say(f"dashboard: {link}   (Ctrl-C stops the dashboard; the log is {log})")


def _answers(address: tuple[str, int]) -> bool:
    """Wait until the server answers; return False if it ends without an answer."""
    connection = HTTPConnection(*address, timeout=_START_TIMEOUT_S)  # ignores the proxies of the environment
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True


def _stop(server: "subprocess.Popen[bytes]") -> int:
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    say("dashboard stopped")
    return 0


def _listening_socket(port: int | None) -> socket.socket:
    """Return a socket that listens already, so that no other process can take its port."""
    for number in [port] if port is not None else range(_FIRST_PORT, _FIRST_PORT + _TRIES):
        with suppress(OSError, OverflowError):  # the port is taken, or the number is out of range
            return socket.create_server((_HOST, number))
    raise UserError(f"--port must be free on {_HOST}, got {port if port is not None else 'none from 5000 on'}")
