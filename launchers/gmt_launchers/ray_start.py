"""Changes how Ray starts on this machine, by its private functions; tests/contract/test_ray_internals.py tests them.

Each function makes a block in which `ray.init` starts Ray in another way, and after which Ray is as before.
"""

import functools
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NODE_STARTS_S = 30.0  # Ray's own limit


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of a module or a class within the block."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def on_the_loopback() -> Iterator[None]:
    """Make the Ray that the block starts listen on 127.0.0.1 only, as it does on Windows and macOS.

    On Linux Ray 2.60 has no setting for it: it replaces `_node_ip_address="127.0.0.1"` by an address that others reach.
    """
    from ray._private import ray_constants

    with _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def without_unused_processes() -> Iterator[None]:
    """Make the Ray that the block starts leave out its autoscaler, its log monitor, and the dashboard's two processes.

    A single node does not scale, nobody opens the dashboard, and the log monitor sends lines to drivers that ask for
    them. Ray 2.60 starts all four even with `include_dashboard=False` and `log_to_driver=False`. In place of the
    dashboard's agent a node needs a process that ends with it: `cat` does, whose input is a pipe from the node.
    """
    from ray._private import utils
    from ray._private.node import Node

    no_port = "-1"  # so an agent without the dashboard's libraries reports its ports
    with (
        _replaced(Node, "start_monitor", lambda self, **_: None),
        _replaced(Node, "start_api_server", lambda self, **_: None),
        _replaced(Node, "start_log_monitor", lambda self, **_: None),
        _replaced(utils, "get_dashboard_dependency_error", lambda: ImportError("left out")),
        _node_flags(
            dashboard_agent_command="cat",
            metrics_agent_port=no_port,
            metrics_export_port=no_port,
            dashboard_agent_listen_port=no_port,
        ),
    ):
        yield


@contextmanager
def starts_beside_its_agent() -> Iterator[None]:
    """Make the Ray that the block starts not wait for its runtime environment agent, which needs a second to start.

    Ray 2.60 waits until the agent has chosen a port, and fails after 15 s. Here the port is known beforehand: a socket
    of this process keeps it for the block, and Linux lets the agent bind it too, since this socket does not listen. A
    job that needs the agent waits for it. On other systems Ray waits as before.
    """
    from ray._private import services

    if sys.platform != "linux":
        yield
        return
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        start_raylet = functools.partial(_start_with_port, services.start_raylet, holder.getsockname()[1])
        with _replaced(services, "start_raylet", start_raylet):
            yield


def _start_with_port(start: Callable[..., object], port: int, *args: object, **values: object) -> object:
    return start(*args, **values | {"runtime_env_agent_port": port})


@contextmanager
def without_uv() -> Iterator[None]:
    """Keep Ray from starting workers by `uv run` if that has started the driver.

    Ray 2.60 would copy the current folder, which may have at most 512 MB, and start each worker in the copy. Our
    workers import what the driver imports, or what is installed on their node.
    """
    from ray._private import ray_constants

    with _replaced(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", False):
        yield


@contextmanager
def without_inherited_environment() -> Iterator[None]:
    """Keep the Ray that the block starts from using a runtime environment that is meant for another cluster.

    RAY_RUNTIME_ENV_HOOK makes one, and `ray job submit` sets another variable for the driver of its job.
    """
    from ray._private.ray_constants import RAY_RUNTIME_ENV_HOOK
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    names = (RAY_RUNTIME_ENV_HOOK, RAY_JOB_CONFIG_JSON_ENV_VAR)
    originals = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= originals


@contextmanager
def _node_flags(**values: str) -> Iterator[None]:
    """Change flags of the node that the block starts, or add those that its command lacks."""
    from ray._private import services

    original = services.start_ray_process

    def start_ray_process(command: list[str], process_type: str, *args: object, **options: object) -> object:
        if process_type == services.ray_constants.PROCESS_TYPE_RAYLET:
            others = [word for word in command if _flag(word) not in values]
            command = [*others, *(f"--{name}={value}" for name, value in values.items())]
        return original(command, process_type, *args, **options)

    with _replaced(services, "start_ray_process", start_ray_process):
        yield


def _flag(word: str) -> str:
    """Return the name of a flag `--NAME=VALUE`, in which Ray writes both - and _."""
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


@contextmanager
def keeps_idle_workers() -> Iterator[None]:
    """Make the Ray that the block starts keep the workers that it starts beforehand until a job needs them.

    Ray 2.60 ends a worker that was idle for a second, and starts another for the next job.
    """
    with _environment("RAY_idle_worker_killing_time_threshold_ms", "3600000"):
        yield


@contextmanager
def starts_workers(number: int, *, module: str, num_threads: int) -> Iterator[None]:
    """Make the Ray that the block starts on this machine start a number of workers beforehand.

    Ray 2.60 starts a worker for each core, and has no setting for it.

    Args:
        number: the number of workers.
        module: the module that each worker of this Ray imports when it starts. The import must be short, since Ray
            gives a job to another, new process while a worker still imports.
        num_threads: OMP_NUM_THREADS in the workers, unless the user has set it.
    """
    with (
        _node_flags(num_prestart_python_workers=str(number)),
        _environment("RAY_preload_python_modules", module),
        _environment("OMP_NUM_THREADS", str(num_threads)),
    ):
        yield


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable within the block, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def notices_its_node_at_once() -> Iterator[None]:
    """Make the Ray that the block starts notice soon that its node has started; Ray 2.60 looks once a second."""
    from ray._private import services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a compiled module

    original = services.get_node

    def get_node(address: str, node_id: str) -> object:
        client, deadline = GcsClient(address=address), time.monotonic() + _NODE_STARTS_S
        while time.monotonic() < deadline and node_id not in (node.hex() for node in client.get_all_node_info()):
            time.sleep(0.05)
        return original(address, node_id)

    with _replaced(services, "get_node", get_node):
        yield
