"""How soon a sweep of tiny runs trains where nothing is warm, by its parts, beside other ways to start workers.

Ours plans, checks, starts Ray and MLflow, evaluates the base and trains nano. The others start a worker that imports
what ours does (torch, transformers, TRL's trainer), and do nothing else. Processes are watched from outside.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from processes import Processes
from publishing import publish, script_parser, table
from sweep_overhead import hydra_app, own_token

ROOT = Path(__file__).resolve().parents[1]
PARTS = ["first line", "Ray up", "worker ready", "first step", "end", "CPU"]
LIMITS_S = {"first line": 1.0, "first step": 10.0}
WAYS = {
    "sweep": "`gmt sweep` of 8 runs",
    "before": "`gmt sweep` of 8 runs, another checkout",
    "run": "`gmt run`",
    "hydra_ray": "hydra-ray-launcher, 2 jobs",
    "actor": "a bare Ray actor",
}
ONE_RUN = ["task=tiny", "train=quickstart", "--config-dir", str(ROOT / "tests" / "conf")]
_LOOK_S = 0.05


def libraries() -> None:
    """What a worker of ours imports."""
    import torch  # noqa: F401
    import transformers  # noqa: F401
    from trl import SFTTrainer  # noqa: F401

    Path(os.environ["COLD_START_READY"]).touch()


def actor() -> None:
    """One actor as Ray's guide shows it."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class Worker:
        def load(self) -> None:
            libraries()

    ray.get(ray.remote(Worker).remote().load.remote())
    ray.shutdown()


def command_of(way: str, before: Path | None) -> tuple[list[str], dict[str, str]]:
    """The command of a way, and what it needs in its environment."""
    if way in ("actor", "hydra_ray"):
        return [sys.executable, str(Path(__file__).resolve()), "--one", way], {}
    study = ["sweep", "study=tiny", "--config-dir", str(ROOT / "tests" / "conf")]
    if way == "before":
        assert before is not None
        paths = [str(before / name) for name in ("", "launchers", "analysis")]
        return [sys.executable, "-m", "gmt", *study], {"PYTHONPATH": os.pathsep.join(paths)}
    return [sys.executable, "-m", "gmt", *(study if way == "sweep" else ["run", *ONE_RUN])], {}


@dataclass
class Watched:
    """The parts of a command that were seen, in seconds from its start."""

    folder: Path
    started: float = field(default_factory=time.time)
    seen: dict[str, float] = field(default_factory=dict)

    def note(self, part: str, at: float | None = None) -> None:
        """Note that a part is reached, now or at another time."""
        self.seen.setdefault(part, (time.time() if at is None else at) - self.started)

    def look(self) -> None:
        """Look at the records."""
        if (self.folder / "ready").exists():
            self.note("worker ready")
        for status in self.folder.glob("gmt-results/runs/*/status.json"):
            self.note("worker ready", json.loads(status.read_text(encoding="utf-8")).get("started_at"))
        for path in self.folder.glob("gmt-results/runs/*/metrics.jsonl"):
            steps = [row for row in map(_row, path.read_text(encoding="utf-8").splitlines()) if "train/loss" in row]
            if steps:
                self.note("first step", steps[0]["time"])


def _row(line: str) -> dict[str, float]:
    try:
        row: dict[str, float] = json.loads(line)
    except ValueError:  # half a line, which is being written
        return {}
    return row


def measured(way: str, before: Path | None) -> Mapping[str, float]:
    """The parts of one cold start, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="cold-start-") as name:
        folder = Path(name)
        command, more = command_of(way, before)
        env = os.environ | own_token(folder) | {"COLD_START_READY": str(folder / "ready")} | more
        watched = Watched(folder)
        with (folder / "err").open("w", encoding="utf-8") as err:
            process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=err, text=True, encoding="utf-8"
            )
            reader = threading.Thread(target=_read, args=(process, watched))
            reader.start()
            processes = Processes(process.pid)
            while process.poll() is None:
                processes.look()
                if processes.has_workers():
                    watched.note("Ray up")
                watched.look()
                time.sleep(_LOOK_S)
            watched.note("end")
            reader.join()
        if process.returncode:
            errors = (folder / "err").read_text(encoding="utf-8")
            raise SystemExit(f"{way} failed with exit code {process.returncode}:\n{errors[-4000:]}")
        return watched.seen | {"CPU": sum(processes.cpu_seconds().values())}


def _read(process: "subprocess.Popen[str]", watched: Watched) -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        watched.note("first line")


def main() -> None:
    """Measures and reports."""
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured in turn (default: 3)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all that are installed")
    parser.add_argument("--before", type=Path, help="another checkout of this repository, to compare with")
    parser.add_argument("--one", choices=["actor", "hydra_ray"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        actor() if args.one == "actor" else hydra_app("ray", 2, libraries)
        return
    lacking = {"before"} if args.before is None else set()
    if find_spec("hydra_plugins.hydra_ray_launcher") is None:
        lacking.add("hydra_ray")
    ways = args.ways or [way for way in WAYS if way not in lacking]
    rounds: dict[str, list[Mapping[str, float]]] = {way: [] for way in ways}
    load = os.getloadavg()[0]
    for _ in range(args.rounds):
        for way in ways:
            rounds[way].append(measured(way, args.before))
            print(way, {part: round(value, 1) for part, value in rounds[way][-1].items()}, file=sys.stderr, flush=True)
    publish("What a cold start takes", [_table(rounds), _words(rounds, lacking, load)], args.out)


def _table(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    rows = [
        [WAYS[way], *(_cell([one[part] for one in of_way if part in one]) for part in PARTS)]
        for way, of_way in rounds.items()
    ]
    return table(["s from the command", *PARTS[:-1], "CPU s of all processes"], rows)


def _cell(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _words(rounds: Mapping[str, Sequence[Mapping[str, float]]], lacking: set[str], load: float) -> str:
    limits = " and ".join(f"{limit:g} s to the {part}" for part, limit in LIMITS_S.items())
    words = [
        f"Median and range of {len(next(iter(rounds.values())))} rounds in turn. A worker is ready when it has imported"
        " the libraries; of ours, the examples are also prepared then.",
        f"Limits of `gmt sweep` on two cores that do nothing else: {limits}.",
        f"The load of the machine was {load:.1f} in the minute before the first round.",
    ]
    compared = [
        *(("before", part) for part in ("first step", "end", "CPU")),
        *((way, "worker ready") for way in ("hydra_ray", "actor")),
    ]
    for way, part in compared:
        if rounds.get("sweep") and rounds.get(way):
            pairs = zip(rounds["sweep"], rounds[way], strict=True)
            ratios = [ours[part] / theirs[part] for ours, theirs in pairs]
            words.append(f"`gmt sweep` / {WAYS[way]}, {part}: {_cell(ratios, 2)}.")
    if "hydra_ray" in lacking:
        words.append("hydra-ray-launcher was not installed.")
    return " ".join(words)


if __name__ == "__main__":
    main()
