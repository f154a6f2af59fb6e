"""Waits until a Ray cluster has a number of nodes: `python -m ... HOST:PORT NODES TIMEOUT_S`."""

import sys
import time

_POLL_S = 1.0


def wait_for_nodes(address: str, num_nodes: int, timeout_s: float) -> int:
    """Wait until a number of nodes have joined a cluster.

    Args:
        address: HOST:PORT of the cluster; its token must be where Ray looks for it.
        num_nodes: the number of nodes to wait for.
        timeout_s: the time limit in seconds, which includes the wait for the first node.

    Returns:
        The number of nodes: fewer than `num_nodes` after the time limit, 0 if the cluster never answered.
    """
    import ray

    deadline = time.monotonic() + timeout_s
    if not _join(address, deadline):
        return 0
    try:
        while (alive := _num_alive()) < num_nodes and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    finally:
        ray.shutdown()
    return alive


def _num_alive() -> int:
    import ray

    return sum(bool(node["Alive"]) for node in ray.nodes())


def _join(address: str, deadline: float) -> bool:
    import ray

    while True:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
            return True
        except (ConnectionError, RuntimeError):  # Ray is still starting
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)


if __name__ == "__main__":
    wanted, patience_s = int(sys.argv[2]), float(sys.argv[3])
    num_alive = wait_for_nodes(sys.argv[1], wanted, patience_s)
    if num_alive < wanted:
        sys.exit(
            f"error: Ray has {num_alive} of {wanted} nodes after {patience_s:.0f} s; the output of the nodes follows"
        )
