"""A Ray cluster of two nodes on this machine, until its standard input closes: prints its dashboard's address."""

import os
import sys

os.environ["RAY_AUTH_MODE"] = "token"  # before Ray is imported, which reads it then


def main() -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1)
        print(f"http://{cluster.webui_url}", flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
