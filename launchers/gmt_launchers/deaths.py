"""Why a worker died, from what Ray says and from what the worker left in its record."""

import socket
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayTaskError

from gmt.runs import stall
from gmt.runs.failures import kind_of
from gmt_launchers.ray_internals import logs_folder

_NODES = "nodes.txt"
_KNOCK_S = 5.0


def kind_of_death(error: Exception, folder: Path) -> tuple[str, str]:
    """The kind of a failure (gmt.runs.failures) and a sentence for it.

    Args:
        error: what Ray raised for the worker's task.
        folder: of the run's record, where a hang leaves its trace.
    """
    text = str(error)
    hang = folder / stall.FILE
    if hang.exists() and hang.stat().st_size:
        return "infrastructure", f"no progress for resources.stall_limit_s; {hang} shows where it hung"
    start = folder / stall.START_FILE
    if start.exists() and start.stat().st_size:
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
    """Writes down, in the worker, on which of Ray's nodes a run is worked on.

    Args:
        folder: of the run's record.
        first: the worker is the first of the attempt; the nodes of earlier ones are forgotten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _NODES).open("w" if first else "a", encoding="utf-8") as file:
        file.write(ray.get_runtime_context().get_node_id() + "\n")


def num_noted(folder: Path) -> int:
    """Return how many processes have noted their node for a run's last attempt."""
    path = folder / _NODES
    return len(path.read_text(encoding="utf-8").split()) if path.exists() else 0


def node_is_lost(folder: Path) -> bool:
    """Whether a node of a run's last attempt is gone; the head itself takes some time to find that out."""
    path = folder / _NODES
    ids = set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
    known = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    return any(id not in known or not _answers(known[id]) for id in ids)


def _answers(node: dict[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_KNOCK_S).close()
    except OSError:
        return False
    return True
