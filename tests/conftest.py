"""What several tests need: the program as users start it, a config folder of the tests' own, and bubblewrap."""

import gc
import os
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gmt.config_dir import config_dir
from gmt.garbage import no_collections
from tests.composed_once import compose_once
from tests.warm import call_gmt, calls_in_new_processes

if TYPE_CHECKING:
    import subprocess

    from tests.mlflow_server import Server

ROOT = Path(__file__).parents[1]
CONF = ROOT / "tests" / "conf"

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt install bubblewrap")

NEW_PROCESS = "gmt_new_process"
Gmt = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while the libraries are imported: nearly all of it stays."""
    with no_collections():
        return (yield)


def pytest_unconfigure() -> None:
    """Let the interpreter end as it would: libraries complain of what they find still in use."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _collector_passes_over_what_is_imported() -> None:
    """Leave the objects at hand out of later collections: each training asks for one, which took half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _configs_are_composed_once() -> Iterator[None]:
    """Compose the same overrides on the same folders once in a session: it takes Hydra a tenth of a second."""
    with compose_once(config_dir(), CONF):
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_ray_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A token for the clusters that tests start and join; Ray would write one into the home folder."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)  # a joined cluster's token that others can read is refused
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


@pytest.fixture(autouse=True, scope="session")
def _absl_closes_no_capture() -> None:
    """Have absl's handler write to the real stderr: Hydra closes every handler, which would close pytest's stream."""
    from absl import logging  # some test imports it with lm-eval; its handler then takes the stderr of that moment

    logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write into a test's report which of its calls of `gmt` started a new process instead of a fork."""
    report = yield
    report.user_properties += [(NEW_PROCESS, variables) for variables in calls_in_new_processes]
    calls_in_new_processes.clear()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds of each test file, and its calls of `gmt` that a changed environment kept from forking."""
    reports = [r for entries in terminalreporter.stats.values() for r in entries if isinstance(r, pytest.TestReport)]
    calls = Counter((r.nodeid.partition("::")[0], v) for r in reports for n, v in r.user_properties if n == NEW_PROCESS)
    if calls:
        terminalreporter.section("calls of gmt that started a new process, by what differs in the environment")
        for (name, variables), number in calls.most_common():
            terminalreporter.write_line(f"{number:7}  {name}: {variables}")
    seconds: Counter[str] = Counter()
    for report in reports:
        seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section("seconds by file")
    for name, took in seconds.most_common():
        if took >= 1:
            terminalreporter.write_line(f"{took:7.1f}  {name}")


def gmt_in(folder: Path) -> Gmt:
    """Runs `gmt` in a folder, where its results then lie below gmt-results."""

    def run(*arguments: str, timeout_s: float = 240, is_warm: bool = True) -> "subprocess.CompletedProcess[str]":
        return call_gmt(arguments, folder, timeout_s=timeout_s, is_warm=is_warm)

    return run


@pytest.fixture
def gmt(tmp_path: Path) -> Gmt:
    """Runs `gmt` in a scratch folder."""
    return gmt_in(tmp_path)


@pytest.fixture
def mlflow_server(tmp_path: Path) -> "Iterator[Server]":
    """A real MLflow server that answers; it ends with the test."""
    from tests.mlflow_server import Server  # MLflow takes seconds

    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()
