"""The dashboard serves its owner alone, on this machine, and leaves nothing behind."""

import html
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from email.message import Message
from http.cookies import SimpleCookie
from itertools import chain
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from gmt.commands import ui
from gmt.commands.sync import sync
from gmt.errors import UserError
from tests.conftest import CONF, ROOT
from tests.finished import done_study
from tests.processes import command_of, free_ports, sigint_as_in_a_terminal, wait_for

# What MLflow reads to open its server to others.
OPEN = {"MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true", "MLFLOW_SERVER_ALLOWED_HOSTS": "*"}
# Another user: asks for each [method, address, cookie], tries to read each file, and to listen on the port.
STRANGER = """
import encodings.idna, json, os, socket, sys, urllib.error, urllib.request
os.setgroups([]), os.setgid(65534), os.setuid(65534)
requests, files, port = json.load(sys.stdin)
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
statuses, read, taken = [], [], []
for method, address, cookie in requests:
    headers = {"Cookie": cookie, "Content-Type": "application/json"}
    try:
        statuses.append(ask(urllib.request.Request(address, b"{}", headers, method=method)).status)
    except urllib.error.HTTPError as error:
        statuses.append(error.code)
for file in files:
    try:
        read.append(open(file, "rb").read())
    except PermissionError:
        pass
for host, family in (("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)):
    mine = socket.socket(family)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        mine.bind((host, port))
        mine.listen()
        taken.append(host)
    except OSError:
        pass
print(json.dumps([statuses, len(read), taken]))
"""


class Dashboard:
    """`gmt ui` on the tiny study, whose runs MLflow holds.

    Args:
        folder: where it is started; its home, its temporary files and a browser lie there, too.
        page: where its link should lead to, behind the #.
        parent: the MLflow id of the sweep.
    """

    def __init__(self, folder: Path, page: str, parent: str):
        self.folder, self.page, self.parent = folder, page, parent
        (self.port,) = free_ports(1)
        self.root = f"http://127.0.0.1:{self.port}"
        command = [Path(sys.executable).with_name("gmt"), "ui", "study=tiny", "-cd", CONF, "--port", str(self.port)]
        command += ["--browser"]
        browser = folder / "browser"
        browser.write_text('#!/bin/sh\necho "$@" > "$0.arguments"\n')
        browser.chmod(0o700)
        environment = os.environ | OPEN | {"HOME": str(folder), "TMPDIR": str(folder), "BROWSER": str(browser)}
        with sigint_as_in_a_terminal():
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        with ExitStack() as on_failure:
            on_failure.callback(self.process.kill)  # its server ends with it
            self._log_in()
            on_failure.pop_all()

    def _log_in(self) -> None:
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.link = self.said.split()[1]
        _, headers, text = self.ask("GET", self.link)  # the server answers as soon as it can
        self.path = text.partition("replace('")[2].partition("'")[0]
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def ask(self, method: str, address: str, cookie: str = "", **headers: str) -> tuple[int, Message, str]:
        """Return status, headers and text of an answer, as a browser without a proxy gets it."""
        request = urllib.request.Request(address, b"{}" if method != "GET" else None, headers, method=method)
        request.add_header("Cookie", cookie)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=240) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()

    def own(self, method: str, path: str, **headers: str) -> tuple[int, str]:
        """Return status and text of an answer to the owner's browser."""
        status, _, text = self.ask(method, f"{self.root}{self.path}{path}", self.cookie, **headers)
        return status, text

    def processes(self) -> tuple[psutil.Process, psutil.Process]:
        """Return the processes of `gmt ui` and of its server."""
        command = psutil.Process(self.process.pid)
        (server,) = [child for child in command.children() if "gmt.tracking.ui_server" in command_of(child)]
        return command, server


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    started = _start(tmp_path_factory)
    yield started
    if started.process.poll() is None:
        started.process.send_signal(signal.SIGINT)
        started.process.wait(240)


def _start(tmp_path_factory: pytest.TempPathFactory) -> Dashboard:
    folder = tmp_path_factory.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done_study()
        sync(["study=tiny"], str(CONF))
    client = MlflowClient(f"sqlite:///{folder}/gmt-results/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`gmt.kind` = 'sweep'")
    for name in ("mlflow", "fastapi", "flask", "datasets"):  # the server imports nothing from the current folder
        (folder / f"{name}.py").write_text("raise RuntimeError('a file of the current folder ran')\n")
    view = f"/experiments/{experiment.experiment_id}/runs?viewStateShareKey=gmt&workflowType=machine_learning"
    return Dashboard(folder, view, parent.info.run_id)


def test_its_link_logs_in_at_the_study(dashboard: Dashboard) -> None:
    assert dashboard.said.startswith(f"dashboard: {dashboard.root}/login/")
    assert dashboard.link.partition("#")[2] == dashboard.page
    status, page = dashboard.own("GET", "")
    assert status == 200
    assert "<title>MLflow</title>" in page
    script = page.partition('src="')[2].partition('"')[0]
    assert dashboard.own("GET", script)[0] == 200
    run = dashboard.parent
    status, text = dashboard.own("GET", f"ajax-api/2.0/mlflow/runs/get?run_id={run}")
    assert json.loads(text)["run"]["data"]["tags"][0]["key"].startswith("gmt.")
    _, text = dashboard.own("POST", "ajax-api/2.0/mlflow/runs/search")
    child = MlflowClient(f"sqlite:///{dashboard.folder}/gmt-results/mlflow.db").search_runs(["1"])[0].info.run_id
    status, text = dashboard.own("GET", f"get-artifact?path=result.json&run_uuid={child}")
    assert (status, "before" in json.loads(text)) == (200, True)
    _, headers, _ = dashboard.ask("GET", dashboard.link)  # in a second browser
    assert SimpleCookie(headers["Set-Cookie"])["gmt-ui"]["path"] == dashboard.path


def test_mlflow_still_checks_host_and_origin(dashboard: Dashboard) -> None:
    assert dashboard.own("GET", "", Host="evil.example")[1].startswith("Invalid Host header")
    status, text = dashboard.own("POST", "ajax-api/2.0/mlflow/runs/search", Origin="http://evil.example")
    assert (status, text) == (403, "Cross-origin request blocked")


def test_mlflows_assistant_is_closed_to_the_owner_too(dashboard: Dashboard) -> None:
    from mlflow.server.assistant.api import assistant_router

    for route in assistant_router.routes:
        for method in route.methods:
            status, text = dashboard.own(method, route.path.removeprefix("/"))
            assert (status, text) == (403, "gmt ui: MLflow's Assistant is closed.\n"), route.path
    assert not (dashboard.folder / ".mlflow").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as a second user")
def test_nobody_else_gets_anything(dashboard: Dashboard) -> None:
    run = dashboard.parent
    paths = ["", "health", "version", "static-files/favicon.ico", "login/", f"login/{secrets.token_hex(16)}", "graphql"]
    paths += ["ajax-api/2.0/mlflow/experiments/search?max_results=1", f"get-artifact?path=result.json&run_uuid={run}"]
    paths += ["api/2.0/mlflow-artifacts/artifacts/x", "ajax-api/3.0/mlflow/assistant/config", "gateway/x", "metrics"]
    addresses = [f"{dashboard.root}{folder}{path}" for folder in ("/", dashboard.path) for path in paths]
    cookies = ("", f"gmt-ui={secrets.token_hex(16)}", f"gmt-ui={dashboard.path.strip('/')}")
    requests = [[method, at, c] for method in ("GET", "POST", "PUT", "DELETE") for at in addresses for c in cookies]
    files = [f"/proc/{each.pid}/environ" for each in dashboard.processes()]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER],
        input=json.dumps([requests, files, dashboard.port]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[403] * len(requests), 0, []]
    assert dashboard.own("GET", f"ajax-api/2.0/mlflow/runs/get?run_id={run}")[0] == 200


def test_its_token_is_in_no_argument_and_no_environment(dashboard: Dashboard) -> None:
    token = dashboard.cookie.partition("=")[2]
    assert token in dashboard.link
    for process in dashboard.processes():
        for file in ("cmdline", "environ"):
            assert token.encode() not in Path(f"/proc/{process.pid}/{file}").read_bytes()
    (shortcut,) = dashboard.folder.glob("gmt-ui-*/open.html")
    assert dashboard.link in html.unescape(shortcut.read_text())
    assert [path.stat().st_mode & 0o777 for path in (shortcut.parent, shortcut)] == [0o700, 0o600]
    arguments = dashboard.folder / "browser.arguments"
    wait_for(arguments.exists, 240)
    assert wait_for(arguments.read_text, 10) == f"{shortcut.as_uri()}\n"


def test_it_listens_on_one_port_of_this_machine_alone(dashboard: Dashboard) -> None:
    everything = [process.net_connections("all") for process in dashboard.processes()]
    listening = [tuple(each.laddr) for each in chain(*everything) if each.status == psutil.CONN_LISTEN]
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (where,) = re.findall(r"^\| `gmt ui` \| `server`, one port \| ([^|]+) \|", page, re.MULTILINE)
    assert listening == [(where, dashboard.port)]
    assert not [each for each in chain(*everything) if each.family == socket.AF_UNIX and each.laddr]


def test_it_stops_on_ctrl_c(dashboard: Dashboard) -> None:
    dashboard.process.send_signal(signal.SIGINT)
    output, _ = dashboard.process.communicate(timeout=240)
    assert dashboard.process.returncode == 0, output
    assert output == "dashboard stopped\n"  # no line for a request, no warning of a library
    assert not list(dashboard.folder.glob("gmt-ui-*"))
    socket.create_server(("127.0.0.1", dashboard.port)).close()


@pytest.mark.slow
def test_the_server_ends_with_gmt_ui_however_that_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    started = _start(tmp_path_factory)
    _, server = started.processes()
    started.process.kill()
    server.wait(240)
    assert not server.is_running()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_takes_no_port_on_which_somebody_listens(host: str) -> None:
    refusal = pytest.raises(UserError, match=r"--port must be free on 127\.0\.0\.1")
    with socket.create_server((host, 0), reuse_port=True) as taken, refusal:
        ui._listening_socket(taken.getsockname()[1])


@pytest.mark.parametrize(("mode", "shown"), [(0o644, "FILE holds the link"), (0o640, "FILE holds"), (0o600, "LINK ")])
def test_output_that_others_can_read_holds_no_link(
    mode: int, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "ui.log"
    output.touch()
    output.chmod(mode)
    with output.open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        ui._announce("LINK", Path("FILE"), Path("LOG"))
    assert output.read_text().startswith(f"dashboard: {shown}")
    assert ("LINK" in output.read_text()) == (mode == 0o600)
