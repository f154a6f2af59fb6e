"""Processes that tests start and wait for."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from tests.warm import fork_server

T = TypeVar("T")


def wait_for(what: Callable[[], T], timeout_s: float, *, every_s: float = 0.1) -> T:
    """What `what` returns, once that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(every_s)
    return found


def name_of(process: psutil.Process) -> str:
    """Return the name of a process; empty if the process has ended since it was listed."""
    try:
        return process.name()
    except psutil.Error:
        return ""


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process; empty if the process has ended since it was listed."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Return the environment variables of a process; empty if the process has ended since it was listed."""
    try:
        return process.environ()
    except psutil.Error:
        return {}


@contextmanager
def sigint_as_in_a_terminal() -> Iterator[None]:
    """Processes that are started in the block end by SIGINT, also where a shell runs the tests in the background.

    Such a shell lets SIGINT be ignored, and processes inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def results_in(root: Path) -> dict[str, int]:
    """When each run below a record root was done, by its id."""
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("runs/*/result.json")}


def in_ranks(work: Callable[..., None], num_ranks: int, *args: Any, timeout_s: float = 240) -> list[int | None]:
    """The exit codes of processes of one gloo group, each with one thread, that call `work(*args)`.

    Each is a fork of the server of tests/warm.py, since imports would take longer than the work.
    """
    (port,) = free_ports(1)
    context = fork_server()
    ranks = [context.Process(target=_rank, args=(rank, num_ranks, port, work, args)) for rank in range(num_ranks)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=timeout_s)
        rank.kill()  # one that waits for another that failed
        rank.join()
    return [rank.exitcode for rank in ranks]  # tracebacks are in the captured stderr


def _rank(rank: int, num_ranks: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    os.environ |= {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=num_ranks)
    work(*args)
    torch.distributed.destroy_process_group()
