"""What a fault of the MLflow server costs the training: sweeps of the same runs beside it, in one session.

Each round sweeps once without tracking, with a server that is well, and with one that is frozen (SIGSTOP) for a minute,
or killed, once the first run is at work. Compared is the time in optimizer steps, summed over the runs; a sweep's whole
time is shown too. Faults must cost at most 2 %.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from report import publish, table

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests.mlflow_server: a server that can be killed and frozen
from tests.mlflow_server import Server

LIMIT = 1.02
FROZEN_S = 60.0
WAYS = ("none", "well", "frozen for a minute", "killed")


def sweep(folder: Path, way: str, runs: int) -> tuple[float, float]:
    """Seconds in optimizer steps of all runs, and of the whole sweep."""
    server = Server(folder)
    tracking = ["tracking=none"]
    if way != "none":
        server.start()
        tracking = ["tracking=server", f"tracking.uri={server.uri}"]
    seeds = ",".join(str(seed + 1) for seed in range(runs))
    command = [sys.executable, "-m", "gmt", "run", "-m", "method=gmt", f"seed={seeds}", "record.log_every=1", *tracking]
    started = time.perf_counter()
    swept = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        if way in ("frozen for a minute", "killed"):
            while not list(folder.glob("gmt-results/runs/*/metrics.jsonl")):
                time.sleep(0.1)
            _fault(server, way)
        assert swept.wait() == 0, f"the sweep ended with code {swept.returncode}"
        whole_s = time.perf_counter() - started
    finally:
        server.kill()  # SIGKILL ends a frozen one too
    results = [json.loads(path.read_text()) for path in folder.glob("gmt-results/runs/*/result.json")]
    assert len(results) == runs
    return sum(result["train_seconds"] for result in results), whole_s


def _fault(server: Server, way: str) -> None:
    if way == "killed":
        server.kill()
        return
    server.signal(signal.SIGSTOP)
    timer = threading.Timer(FROZEN_S, server.thaw)
    timer.daemon = True
    timer.start()


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a Markdown file for the result")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=4)
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            with tempfile.TemporaryDirectory() as scratch:
                times[way].append(sweep(Path(scratch), way, args.runs))
                print(way, *times[way][-1], flush=True)
    rows = []
    for way in WAYS:
        ratios = [ours[0] / well[0] for ours, well in zip(times[way], times["well"], strict=True)]
        rows.append(
            [
                way,
                f"{statistics.median(ours[0] for ours in times[way]):.2f}",
                f"{statistics.median(ratios):.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})",
                f"{statistics.median(ours[1] for ours in times[way]):.1f}",
            ]
        )
    head = ["the server", "s in steps, median", "times that beside a server that is well", "s of the sweep, median"]
    publish((__doc__ or "").strip().split("\n")[0], [table(head, rows), f"Limit: {LIMIT} times."], args.out)


if __name__ == "__main__":
    main()
