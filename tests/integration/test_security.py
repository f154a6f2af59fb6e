"""A sweep that runs on a machine with other users: they can neither read nor reach anything of it."""

import os
import re
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import CONF, ROOT, gmt_in
from tests.grpc_call import UNAUTHENTICATED, UNIMPLEMENTED, grpc_status
from tests.listening import PRIVATE, Listening, driver_in, family_of, listening, private_folder
from tests.processes import command_of, environment_of, wait_for
from tests.second_user import as_root, second_user

# One of each service that Ray's servers have.
METHODS = {
    "gcs_server": ["/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"],
    "raylet": ["/ray.rpc.NodeManagerService/GetNodeStats", "/ray.rpc.ObjectManagerService/Push"],
    "driver": ["/ray.rpc.CoreWorkerService/PushTask"],
    "worker": ["/ray.rpc.CoreWorkerService/PushTask"],
}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep with a run under way."""

    private: Path
    token: Path
    listening: set[Listening]
    family: list[psutil.Process]

    def ports(self, process: str) -> list[int]:
        """The TCP ports of a process."""
        return [each.port for each in self.listening if each.process == process and each.port is not None]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """Has a worker at work until the file's tests are over; Ctrl-C, pressed twice, then ends it, and the token."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = ("study=tiny", "tracking=none", "hydra.launcher.num_cpus=1", "train.num_epochs=10000")
    with ThreadPoolExecutor(1) as beside:
        ended = beside.submit(gmt_in(folder), "sweep", *arguments, "--config-dir", str(CONF))
        try:
            wait_for(lambda: ended.done() or list(folder.glob("gmt-results/runs/*/nodes.txt")), 200)
            assert not ended.done(), ended.result()
            driver = driver_in(folder)
            assert driver is not None
            family = family_of(driver)
            private = private_folder(family)
            token = private / "token"
            yield Sweep(private=private, token=token, listening=listening(family, private), family=family)
        finally:
            if (driver := driver_in(folder)) is not None:
                driver.send_signal(signal.SIGINT)
                wait_for(lambda: ended.done() or list(folder.glob("gmt-results/studies/*/sweeps/*/stop")), 60)
                driver.send_signal(signal.SIGINT)
        done = ended.result(120)
        assert done.returncode == 130, done.stdout + done.stderr
    assert not token.exists()
    assert list(private.glob("ray/session_latest/logs/raylet.out"))


def test_what_listens_is_what_the_page_says(sweep: Sweep) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    listed = set(re.findall(r"^\| `gmt sweep` \| `(\w+)`[^|]* \| ([^|]+) \|", page, re.MULTILINE))
    found = {(server.process, server.where) for server in sweep.listening}
    assert found == listed
    assert {each.where for each in sweep.listening} == {"127.0.0.1", PRIVATE}


def test_folder_and_token_are_closed_to_other_users(sweep: Sweep) -> None:
    assert stat.S_IMODE(sweep.private.stat().st_mode) == 0o700
    assert stat.S_IMODE(sweep.token.stat().st_mode) == 0o600
    assert sweep.private.stat().st_uid == sweep.token.stat().st_uid == os.getuid()


def test_no_argument_and_no_variable_of_a_process_holds_the_token(sweep: Sweep) -> None:
    token = sweep.token.read_text()
    environments = [environment_of(process) for process in sweep.family]
    for process, environment in zip(sweep.family, environments, strict=True):
        assert token not in " ".join([command_of(process), *environment.values()]), process
    with_path = [environment.get("RAY_AUTH_TOKEN_PATH") == str(sweep.token) for environment in environments]
    assert sum(with_path) >= 3  # of Ray's processes, the raylet, its agent and a worker at least


@as_root
def test_another_user_can_read_no_file_of_it(sweep: Sweep) -> None:
    (sockets,) = sweep.private.glob("ray/session_2*/sockets")

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(sockets / "raylet"))

    works: list[Callable[[], object]] = [
        sweep.token.read_text,
        lambda: os.listdir(sweep.private),
        lambda: os.listdir(sweep.private / "ray"),
        connect,
    ]
    connect()  # for its owner it works
    for work in works:
        with second_user(), pytest.raises(PermissionError):
            work()


@as_root
@pytest.mark.parametrize("token", ["", "0" * 64], ids=["no_token", "another_token"])
def test_another_user_is_refused_by_every_server(sweep: Sweep, token: str) -> None:
    assert {each.process for each in sweep.listening if each.port} >= {*METHODS, "runtime_env_agent"}
    for process, methods in METHODS.items():
        for port in sweep.ports(process):
            with second_user():
                answers = {grpc_status(port, method, token=token) for method in methods}
            assert answers - {UNIMPLEMENTED} == {UNAUTHENTICATED}, process


@as_root
def test_another_user_is_refused_by_the_agent_that_prepares_environments(sweep: Sweep) -> None:
    (port,) = sweep.ports("runtime_env_agent")
    with second_user(), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"POST /get_or_create_runtime_env HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        assert connection.recv(100).split()[1] == b"401"


def test_whoever_has_the_token_is_answered(sweep: Sweep) -> None:
    (port,) = sweep.ports("gcs_server")
    assert grpc_status(port, METHODS["gcs_server"][0], token=sweep.token.read_text()) == "answered"
