"""A sweep as users start it, in a process group of its own, and what it left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONF
from tests.processes import sigint_as_in_a_terminal, wait_for

SETTINGS = ("train.num_epochs=12", "record.log_every=2", "record.checkpoint_every=4", "tracking=none")
STUDY = ("sweep", "study=tiny", *SETTINGS, "--config-dir", str(CONF))


class Sweeps:
    """Starts commands in a folder, and reads its run records."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []
        shutil.copy(Path(__file__).parent / "misbehaving.py", folder)

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        paths = os.pathsep.join([str(self.folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        with sigint_as_in_a_terminal():
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "gmt",
                    *arguments,
                ],  # as the program `gmt` does; PYTHONPATH has our plug-in
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": paths.rstrip(os.pathsep)} | env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, *arguments: str, expect: int = 0, timeout_s: float = 240, **env: str) -> str:
        return finish(self.start(*arguments, **env), expect=expect, timeout_s=timeout_s)

    def records(self, name: str, root: str = "gmt-results") -> dict[str, dict[str, Any]]:
        found = (self.folder / root).glob(f"runs/*/{name}")
        return {path.parent.name: json.loads(path.read_text()) for path in found}

    def wait_for(self, what: Callable[[], Any], *, timeout_s: float = 120) -> Any:
        def look() -> Any:
            for ended in (process for process in self._started if process.poll() not in (None, 0, -9, 130)):
                raise AssertionError(ended.communicate()[0])
            return what()

        return wait_for(look, timeout_s, every_s=0.05)

    def wait_for_checkpoint(self) -> str:
        """The id of a run that is at work and has a checkpoint."""

        def found() -> str | None:
            for path in (self.folder / "gmt-results").glob("runs/*/checkpoint/checkpoint-*/method_state.pt"):
                run = path.parents[2]
                if not (run / "result.json").exists() and json.loads((run / "status.json").read_text())["state"] == (
                    "running"
                ):
                    return run.name
            return None

        return str(self.wait_for(found))

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def finish(process: "subprocess.Popen[str]", *, expect: int = 0, timeout_s: float = 240) -> str:
    """The output of a command that ends by itself, with the exit code that is expected and no traceback."""
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == expect, output
    assert "Traceback" not in output
    return output


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[Sweeps]:
    made = Sweeps(tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The final weights of each run of the study, by run id, from a sweep in one process that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    made = Sweeps(folder)
    made.run(*STUDY, "hydra/launcher=basic", timeout_s=400)
    return weights(made)


def weights(sweeps: Sweeps) -> dict[str, str]:
    """run id -> SHA-256 of the final weights."""
    return {id_: str(result["weights_sha256"]) for id_, result in sweeps.records("result.json").items()}


def attempts(sweeps: Sweeps) -> dict[str, int]:
    """run id -> attempts, of runs that are done."""
    statuses = sweeps.records("status.json")
    assert {status["state"] for status in statuses.values()} == {"done"}
    return {id_: int(status["attempts"]) for id_, status in statuses.items()}
