"""Records a terminal session: a sweep on a cluster of three nodes on this machine, one of which is killed on the way.

Needs asciinema; `asciinema play docs/lost_node.cast` shows the session. Run it as `python -m recipes.lost_node`.
"""

import argparse
import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.conftest import CONF
from tests.processes import wait_for
from tests.ray_nodes import Nodes

STUDY = ("study=tiny", "tracking=none", "train.num_epochs=12", "record.checkpoint_every=4", "record.log_every=2")
SIZE = ("--cols", "120", "--rows", "24")


def commands(address: str) -> str:
    """What is typed in the session, and shown before it is done."""
    where = ("--config-dir", CONF.name, f"hydra.launcher.address={address}")
    typed = [shlex.join(["gmt", verb, *STUDY, *where]) for verb in ("sweep", "plan")]
    return "; ".join(f"echo {shlex.quote('$ ' + line)}; {line}" for line in typed)


def working(runs: Path) -> int | None:
    """The process that is at work on a run which has a checkpoint."""
    for path in runs.glob("*/checkpoint/checkpoint-*/method_state.pt"):
        status = json.loads((path.parents[2] / "status.json").read_text(encoding="utf-8"))
        if status["state"] == "running":
            return int(status["pid"])
    return None


def main() -> None:
    """Starts the nodes, records the session, and kills the node of a run that has a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/lost_node.cast"), help="default: docs/lost_node.cast")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gmt-session-") as scratch:
        folder = Path(scratch)
        (folder / CONF.name).symlink_to(CONF)
        (folder / "token").write_text(secrets.token_hex(32), encoding="utf-8")
        (folder / "token").chmod(0o600)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        nodes = Nodes(folder)
        try:
            for _ in range(2):
                nodes.add()
            record = ["asciinema", "rec", "--quiet", "--overwrite", *SIZE, "-c", commands(nodes.address)]
            started = time.time()
            session = subprocess.Popen([*record, str(args.out.absolute())], cwd=folder, stdin=subprocess.DEVNULL)
            worker = wait_for(lambda: working(folder / "gmt-results" / "runs"), 120)
            family = {process.pid for process in psutil.Process(worker).parents()}
            nodes.kill(next(number for number, node in enumerate(nodes.started) if node.pid in family))
            killed = time.time() - started
            session.wait(600)
        finally:
            nodes.end()
    mark(args.out, killed)


def mark(path: Path, at_s: float) -> None:
    """Puts a marker into the recording."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    events = [*map(json.loads, lines), [at_s, "m", "a node is killed"]]
    events.sort(key=lambda event: event[0])
    path.write_text("\n".join([head, *map(json.dumps, events)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
