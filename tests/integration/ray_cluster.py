"""A Ray cluster of two nodes on this machine, until its standard input closes: prints its dashboard's address.

Each node has a temporary folder of its own, as two machines have: in a shared one, the second node unpacks a job's code
over that of the first and takes the driver's working folder away.
"""

import os
import shutil
import sys
import tempfile

os.environ["RAY_AUTH_MODE"] = "token"  # before Ray is imported, which reads it then


def main() -> None:
    from ray.cluster_utils import Cluster

    folders = [tempfile.mkdtemp(prefix="gmt-node-", dir="/tmp") for _ in range(2)]  # sockets want a short path
    head = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0, "temp_dir": folders[0]}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **head})
    try:
        cluster.add_node(num_cpus=1, temp_dir=folders[1])
        print(f"http://{cluster.webui_url}", flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
