"""Finds why a worker died, from Ray's error and from the files that the worker left in the run record."""

import socket
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayTaskError

from gmt.runs import stall
from gmt.runs.failures import kind_of
from gmt_launchers.ray_internals import logs_folder

_NODES = "nodes.txt"
_CONNECT_S = 5.0


def kind_of_death(error: Exception, folder: Path) -> tuple[str, str]:
    """Return the kind of a failure (gmt.runs.failures) and a sentence about it.

    Args:
        error: the error that Ray raised for the worker's task.
        folder: the folder of the run record, where a hung worker leaves its stack trace.
    """
    text = str(error)
    hang_file = folder / stall.FILE
    if hang_file.exists() and hang_file.stat().st_size:
        return "infrastructure", f"no progress for resources.stall_limit_s; {hang_file} shows where it hung"
    start_file = folder / stall.START_FILE
    if start_file.exists() and start_file.stat().st_size:
        logs = f"Ray's own logs are in {logs_folder()}"
        return "infrastructure", f"its workers did not start within resources.stall_limit_s ({logs})"
    if isinstance(error, RayTaskError):
        return kind_of(error.cause), f"{type(error.cause).__name__}: {error.cause}"
    if isinstance(error, RayActorError) and (error.preempted or node_is_lost(folder)):
        return "preempted", "its node was lost"
    if "low on memory" in text:  # the words of its memory monitor
        return "infrastructure", "Ray ended its worker because the node ran out of memory"
    if isinstance(error, ActorUnschedulableError):
        return "infrastructure", "Ray could not place it on any node"
    return "infrastructure", f"its worker died: {' '.join(text.split())[:300]} (Ray's own logs are in {logs_folder()})"


def note_node(folder: Path, *, first: bool = True) -> None:
    """Write the id of this worker's Ray node into the run record; called in the worker.

    Args:
        folder: the folder of the run record.
        first: whether the worker is the first of the attempt; it deletes the nodes of earlier attempts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _NODES).open("w" if first else "a", encoding="utf-8") as file:
        file.write(ray.get_runtime_context().get_node_id() + "\n")


def num_noted_processes(folder: Path) -> int:
    """Return the number of processes that have noted their node in a run's last attempt."""
    path = folder / _NODES
    return len(path.read_text(encoding="utf-8").split()) if path.exists() else 0


def node_is_lost(folder: Path) -> bool:
    """Return whether a node of a run's last attempt is gone, also before the head has noticed it."""
    path = folder / _NODES
    ids = set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
    known = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    return any(id not in known or not _answers(known[id]) for id in ids)


def _answers(node: dict[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
