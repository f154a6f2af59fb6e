"""Checks that runs fit on the cluster's nodes, and describes the nodes. Counts as Ray counts."""

from collections import Counter
from collections.abc import Mapping, Sequence

import ray

from gmt.errors import UserError
from gmt_launchers.ray_internals import free_by_node

Amounts = Mapping[str, float]  # by Ray's names: CPU, GPU, memory in bytes
UNITS = {"CPU": "resources.cpus", "GPU": "resources.gpus", "memory": "resources.memory_gb"}


def check_fits(wanted: Sequence[tuple[Amounts, int]]) -> int:
    """Check that each run fits on the nodes; otherwise Ray would wait for ever.

    Args:
        wanted: the resources of a run's worker and the number of its workers, for each different combination.

    Returns:
        The number of runs that the nodes can do at a time, for the largest combination.

    Raises:
        UserError: a run fits on no node; the message lists the nodes' resources.
    """
    nodes = all_nodes()
    num_runs = []
    for worker, number in wanted:
        num_fitting = num_places(nodes, worker, at_most=number)
        num_runs.append(num_fitting // number)
        if num_fitting >= number:
            continue
        worker_text = ", ".join(
            f"{UNITS[name]}={_amount_text(name, amount)}" for name, amount in worker.items() if amount
        )
        times = f" on each of resources.workers={number}" if number > 1 else ""
        raise UserError(f"a run must fit on the cluster, got {worker_text}{times}; the cluster has {in_words(nodes)}")
    return min(num_runs)


def all_nodes() -> list[Amounts]:
    """Return the resources of each living node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_nodes() -> list[Amounts]:
    """Return the free resources of each living node."""
    free = free_by_node()
    return [free.get(node["NodeID"], {}) for node in ray.nodes() if node["Alive"]]


def num_places(nodes: Sequence[Amounts], worker: Amounts, *, at_most: int) -> int:
    """Return how many workers fit on the nodes; `at_most` on each node if a worker reserves nothing."""
    amounts = [(name, amount) for name, amount in worker.items() if amount]
    return sum(
        min((int(node.get(name, 0) / amount + 1e-9) for name, amount in amounts), default=at_most) for node in nodes
    )


def in_words(nodes: Sequence[Amounts], names: Sequence[str] = tuple(UNITS)) -> str:
    """Return e.g. `2 x (8 CPU, 1 GPU); 1 x (4 CPU, 0 GPU)`; equal nodes are counted."""
    counts = Counter(", ".join(f"{_amount_text(name, node.get(name, 0))} {name}" for name in names) for node in nodes)
    return "; ".join(f"{number} x ({words})" for words, number in counts.items()) or "no node"


def _amount_text(name: str, amount: float) -> str:
    return f"{amount / 1e9:.3g} GB" if name == "memory" else f"{amount:g}"
