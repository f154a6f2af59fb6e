"""What is submitted wrongly ends with exit code 2 and one clear sentence, and starts nothing."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import pytest

from tests.conftest import CONF, Gmt

STUDY = ("study=tiny", "--config-dir", str(CONF))
NOBODY = "cluster.address=http://127.0.0.1:9"
ROOT = "record.root=/nowhere/results"
RAY = metadata.version("ray")

CASES = [
    ([*STUDY], "this command needs cluster=NAME; choices: kuberay, ray, slurm"),
    ([*STUDY, "cluster=rai"], "there is no cluster 'rai'; did you mean 'ray'?"),
    ([*STUDY, "cluster=ray"], "cluster.address is missing"),
    ([*STUDY, "cluster=ray", NOBODY, ROOT], "but nothing answers at http://127.0.0.1:9 (Connection refused)"),
    ([*STUDY, "cluster=ray", NOBODY], "record.root must be an absolute path on a file system that all nodes"),
    (["study=tny", "--config-dir", str(CONF), "cluster=ray", NOBODY, ROOT], "there is no study 'tny'"),
    ([*STUDY, "cluster=ray", NOBODY, ROOT, "seed=-1"], "seed must be a whole number of at least 0, got -1"),
    ([*STUDY, "cluster=slurm"], "cluster.cpus_per_node must be a whole number of at least 1, got None"),
    ([*STUDY, "cluster=kuberay", "record.root=/results"], "cluster.image must be a text that is not empty, got None"),
    ([*STUDY, "cluster=ray", NOBODY, "tracking.uri=http://me:w0rd@host"], "must hold no secret"),
]


@pytest.mark.parametrize(("arguments", "sentence"), CASES, ids=[" ".join(a[3:])[:60] for a, _ in CASES])
def test_one_sentence_and_exit_code_two(gmt: Gmt, arguments: list[str], sentence: str) -> None:
    done = gmt("submit", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "w0rd" not in done.stdout + done.stderr


Serve = Callable[[dict[str, object]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that answers as a Ray dashboard of other versions, which can't be installed beside ours, would."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, object]) -> str:
        class Dashboard(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answers.get(self.path)
                self.send_response(200 if found else 404)
                self.end_headers()
                self.wfile.write(json.dumps(found).encode() if found else b"<html>")

            def do_POST(self) -> None:
                raise AssertionError("something was started")

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Dashboard))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("versions", "sentence"),
    [
        (
            {"rayVersion": "2.61.0", "pythonVersion": "3.11.1"},
            f"must have Ray {RAY} as the machine that submits, got 2.61.0",
        ),
        ({"rayVersion": RAY, "pythonVersion": "3.9.1"}, "as the machine that submits, got 3.9.1"),
    ],
    ids=["ray", "python"],
)
def test_a_cluster_of_other_versions_is_refused(
    gmt: Gmt, serve: Serve, versions: dict[str, str], sentence: str
) -> None:
    version = {"version": "4", "ray_version": versions["rayVersion"], "ray_commit": "", "session_name": ""}
    address = serve({"/api/version": version, "/api/v0/cluster_metadata": {"data": versions}})
    done = gmt("submit", *STUDY, "cluster=ray", f"cluster.address={address}", ROOT)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_is_not_ray_is_refused(gmt: Gmt, serve: Serve) -> None:
    for answers in ({}, {"/api/version": {"hello": 1}}, {"/api/version": [1]}):
        done = gmt("submit", *STUDY, "cluster=ray", f"cluster.address={serve(answers)}", ROOT)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_an_environment_that_overrules_the_address_is_refused(
    gmt: Gmt, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    done = gmt("submit", *STUDY, "cluster=ray", f"cluster.address={serve({})}", ROOT)
    assert done.returncode == 2
    assert "RAY_ADDRESS in the environment overrules cluster.address" in done.stderr


def test_a_token_file_that_is_not_there_is_refused(gmt: Gmt, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    done = gmt("jobs", "cluster=ray", f"cluster.address={serve({})}")
    assert done.returncode == 2
    assert (
        done.stderr == "error: RAY_AUTH_TOKEN_PATH must name the file with the cluster's token, got '/nowhere/token'\n"
    )
