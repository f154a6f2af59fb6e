"""Ray on this machine, or a running cluster: joined only if it answers, fits and can do the work."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import ray

from gmt.errors import UserError
from gmt_launchers.ray_tune import OF_WORKERS

_ANSWER_S = 5.0
_UNITS = {"CPU": "resources.cpus", "GPU": "resources.gpus", "memory": "resources.memory_gb"}


@contextmanager
def connected(address: str | None, num_cpus: int | None) -> Iterator[None]:
    """Starts Ray on this machine, or joins a running cluster, until the block ends.

    Args:
        address: None for Ray on this machine, `auto` for the cluster whose node this is, or its HOST:PORT.
        num_cpus: cores that Ray may use on this machine; None for all.

    Raises:
        UserError: nothing answers there, the token is wrong, or the versions differ.
    """
    os.environ |= OF_WORKERS
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what went wrong in a job is told by its record
    if address is not None:
        _check_answers(address)
        with suppress(KeyError):
            os.environ.setdefault("RAY_AUTH_MODE", "token" if _has_token() else os.environ["RAY_AUTH_MODE"])
    try:
        # An explicit "local": without it Ray silently joins a cluster that somebody left behind.
        ray.init(
            address=address or "local",
            num_cpus=num_cpus if address is None else None,
            include_dashboard=False if address is None else None,
            runtime_env={"env_vars": OF_WORKERS} if address is not None else None,
            log_to_driver=False,
            logging_level="CRITICAL",
            configure_logging=False,
        )
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(_why_not(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Asks before Ray does, which would wait for 20 s and then speak of something else."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"hydra.launcher.address must be null, auto or HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise UserError(
            f"hydra.launcher.address must be a Ray cluster that answers, got {address!r}: {error}"
        ) from error


def _has_token() -> bool:
    default = os.path.expanduser("~/.ray/auth_token")
    return "RAY_AUTH_TOKEN" in os.environ or os.path.exists(os.environ.get("RAY_AUTH_TOKEN_PATH", default))


def _why_not(address: str | None, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if address is None:
        return f"hydra/launcher=ray_tune can't start Ray on this machine: {reason[:300]}"
    if "ersion mismatch" in reason:
        return f"the cluster at {address} must have this machine's versions of Ray and Python: {reason[:400]}"
    if isinstance(error, ray.exceptions.AuthenticationError) or "auth" in reason.lower():
        return (
            f"the cluster at {address} refuses the token that Ray finds here (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token must hold the cluster's)"
        )
    return f"hydra.launcher.address must be a Ray cluster that answers, got {address!r}: {reason[:300]}"


def check_fits(wanted: Sequence[Mapping[str, float]]) -> None:
    """Holds what runs reserve against the nodes: Ray waits for ever for a node that there is not.

    Args:
        wanted: the resources of a run, by Ray's names (CPU, GPU, memory in bytes), once for each kind of run.

    Raises:
        UserError: no node has them; says what there is.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for run in wanted:
        if any(all(node.get(name, 0) >= amount for name, amount in run.items()) for node in nodes):
            continue
        lacking = [name for name, amount in run.items() if all(node.get(name, 0) < amount for node in nodes)]
        asked = ", ".join(f"{_UNITS[name]}={_shown(name, run[name])}" for name in lacking or run)
        raise UserError(f"a run must fit on a node, got {asked}; {_nodes_in_words(nodes)}")


def _nodes_in_words(nodes: Sequence[Mapping[str, float]]) -> str:
    counts: dict[str, int] = {}
    for node in nodes:
        words = ", ".join(f"{_shown(name, node.get(name, 0))} {name}" for name in _UNITS)
        counts[words] = counts.get(words, 0) + 1
    return "the cluster has " + "; ".join(f"{n} x ({words})" for words, n in counts.items())


def _shown(name: str, amount: float) -> str:
    return f"{amount / 1e9:.3g} GB" if name == "memory" else f"{amount:g}"
