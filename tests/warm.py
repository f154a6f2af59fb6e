"""Starts `gmt` as `python -m gmt` does, in a fork of a process that has imported the large libraries already.

Each call is a process with arguments, folder, environment, output and exit code of its own, and is spared the imports.
Where the environment is not the one in which the libraries were imported, the process is a new one, since they may have
read it then.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


calls_in_new_processes: list[str] = []  # of each call that was to be a fork, the variables that differ


def call_gmt(
    arguments: Sequence[str], folder: Path, *, timeout_s: float, is_warm: bool = True
) -> "subprocess.CompletedProcess[str]":
    """Run `gmt` in a folder and return its exit code and output.

    Raises:
        subprocess.TimeoutExpired: it takes longer than `timeout_s`.
    """
    fork_server()
    differing = sorted({name for name, _ in _environment().items() ^ _server_environment().items()})
    if is_warm and differing:
        calls_in_new_processes.append(" ".join(differing))
    if differing or not is_warm:
        command = [sys.executable, "-m", "gmt", *arguments]
        return subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        process = start_gmt(arguments, folder, out, err)
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["gmt", *arguments], timeout_s, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(["gmt", *arguments], process.exitcode or 0, out.read_text(), err.read_text())


def start_gmt(arguments: Sequence[str], folder: Path, out: Path, err: Path) -> "BaseProcess":
    """Start `gmt` in a folder, as a fork with the environment at hand, and write what it prints to two files."""
    process: BaseProcess = fork_server().Process(
        target=_gmt, args=(list(arguments), folder, dict(os.environ), out, err)
    )
    process.start()
    return process


@cache
def fork_server() -> Any:
    """Return multiprocessing's context of a server that has imported the libraries."""
    _server_environment()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


@cache
def _server_environment() -> Mapping[str, str]:
    """The environment in which the server imports the libraries."""
    return _environment()


# What pytest says of the test at hand, what is read later than at an import, and what a run in the test's own process
# hides: none of it was read when the server imported.
_READ_LATER = (
    "PYTEST_",
    "RAY_",
    "TUNE_",
    "MLFLOW_",
    "HYDRA_",
    "CUDA_VISIBLE",
    "HIP_VISIBLE",
    "ROCR_VISIBLE",
    "KMP_",
    "PYTHONBREAKPOINT",  # a Ray in the test's own process sets it, and leaves it
    "PYTORCH_NVML",
    *("HF_TOKEN", "OTHER_API_KEY", "GITHUB_PAT", "OPENAI_KEY", "MYSQL_PWD"),  # of tests/integration/test_secrets.py
)


def _environment() -> dict[str, str]:
    """Without what makes no difference to a process that has imported the libraries."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_READ_LATER)}


def _gmt(arguments: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    """Run `gmt` in the forked process, in which multiprocessing makes an exit code of what is raised."""
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # the server's children would use forkserver too
    sys.argv = ["gmt", *arguments]
    from gmt.cli import main

    try:
        main()
    finally:  # multiprocessing leaves out what the interpreter does at its end
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
