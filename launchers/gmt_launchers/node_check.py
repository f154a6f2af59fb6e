"""Checks that every node of a joined cluster has this project's code, the shared folder, and locks that hold."""

import hashlib
from importlib import metadata, util
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gmt.errors import UserError

_ANSWER_S = 90.0  # a node's first worker has to start
_LOCK = ".gmt-lock-probe"


def check_nodes(address: str, runs: Path) -> None:
    """Check every node.

    Args:
        address: the cluster's address, for error messages.
        runs: the folder of the run records.

    Raises:
        UserError: a node does not answer, has other code, or does not share the folder or its locks.
    """
    runs.mkdir(parents=True, exist_ok=True)
    version = code_version()
    with FileLock(runs / _LOCK):
        hosts = _living_nodes()
        probes = {node: _start_probe(node, runs.absolute()) for node in hosts}
        for node, probe in probes.items():
            try:
                answer = _get_answer(address, hosts[node], probe)
            except UserError:
                if node not in _living_nodes():  # the node is gone, so no run will start there
                    continue
                raise
            _check_answer(address, hosts[node], answer, version, runs)


def _living_nodes() -> dict[str, str]:
    """Return the host names of the living nodes by their ids."""
    return {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}


def code_version() -> str:
    """Return the project's version and a hash of its code, which are equal on machines with the same code."""
    spec = util.find_spec("gmt")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return f"{metadata.version('gmt-lab')}+{digest.hexdigest()[:8]}"


def _start_probe(node_id: str, runs: Path) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(_probe).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(str(runs))


def _probe(runs: str) -> dict[str, Any]:
    """Return the node's code version, and whether it shares the folder and its locks; called on the node."""
    path = Path(runs) / _LOCK
    if not path.exists():
        return {"code": code_version(), "shared": False, "locked": False}
    try:
        with FileLock(path, timeout=0):
            locked = False
    except Timeout:
        locked = True
    return {"code": code_version(), "shared": True, "locked": locked}


def _get_answer(address: str, host: str, probe: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = ray.get(probe, timeout=_ANSWER_S)
    except ray.exceptions.GetTimeoutError as error:
        raise UserError(
            f"node {host} of the cluster at {address} must answer within {_ANSWER_S:g} s, and does not; a cluster "
            "without authentication needs RAY_AUTH_MODE=disabled here"
        ) from error
    except ray.exceptions.RayTaskError as error:
        reason = " ".join(str(error.cause).split())[:200]
        raise UserError(f"node {host} of the cluster at {address} must have gmt-lab installed: {reason}") from error
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"node {host} of the cluster at {address} can't start a worker: {reason}; a cluster without "
            "authentication needs RAY_AUTH_MODE=disabled here"
        ) from error
    return answer


def _check_answer(address: str, host: str, answer: dict[str, Any], version: str, runs: Path) -> None:
    if answer["code"] != version:
        raise UserError(
            f"node {host} of the cluster at {address} must have this machine's gmt-lab, {version}, got {answer['code']}"
        )
    if not answer["shared"]:
        raise UserError(
            f"record.root must be a folder that every node shares; node {host} of the cluster at {address} does not "
            f"see {runs}"
        )
    if not answer["locked"]:
        raise UserError(
            f"record.root must lie on a file system whose locks hold between nodes (NFSv4, Lustre with flock, GPFS); "
            f"node {host} of the cluster at {address} takes a lock on {runs} that this machine holds"
        )
