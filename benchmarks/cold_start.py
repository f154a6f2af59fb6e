"""Times the cold start of a sweep: how long `gmt sweep` takes until its first run trains, without warm processes.

`gmt sweep` plans and checks 8 runs of nano, starts Ray and MLflow, evaluates the base and trains. The peers only start
a Ray worker that imports the same libraries (torch, transformers, TRL's trainer). Another process watches the files and
processes of the command, and notes the time of each part.
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

from earlier_state import add_before, check_before, commit_sentence, import_path
from processes import Processes
from publishing import publish, script_parser, table
from sweep_overhead import hydra_app, own_token

ROOT = Path(__file__).resolve().parents[1]
PARTS = ["first line", "Ray up", "worker ready", "first step", "end", "CPU"]
LIMITS_S = {"first line": 1.0, "first step": 10.0}
WAYS = {
    "sweep": "`gmt sweep` of 8 runs",
    "before": "`gmt sweep` of 8 runs, an earlier state",
    "run": "`gmt run`",
    "hydra_ray": "hydra-ray-launcher, 2 jobs",
    "actor": "a bare Ray actor",
}
ONE_RUN = ["task=tiny", "train=quickstart", "--config-dir", str(ROOT / "tests" / "conf")]
_POLL_S = 0.05


def import_libraries() -> None:
    """Import the libraries that a worker of `gmt sweep` imports, and tell the watching process."""
    import torch  # noqa: F401
    import transformers  # noqa: F401
    from trl import SFTTrainer  # noqa: F401

    Path(os.environ["COLD_START_READY"]).touch()


def actor() -> None:
    """Start one actor in the way of Ray's guide, and import the libraries in it."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class Worker:
        def load(self) -> None:
            import_libraries()

    ray.get(ray.remote(Worker).remote().load.remote())
    ray.shutdown()


def command_of(way: str, before: Path | None) -> tuple[list[str], dict[str, str]]:
    """Return the command of a way, and its additional environment variables.

    Args:
        way: a key of WAYS.
        before: another checkout of this repository; needed for the way `before`.
    """
    if way in ("actor", "hydra_ray"):
        return [sys.executable, str(Path(__file__).resolve()), "--one", way], {}
    study = ["sweep", "study=tiny", "--config-dir", str(ROOT / "tests" / "conf")]
    if way == "before":
        assert before is not None
        return [sys.executable, "-P", "-m", "gmt", *study], import_path(before)
    return [sys.executable, "-P", "-m", "gmt", *(study if way == "sweep" else ["run", *ONE_RUN])], {}


@dataclass
class PartTimes:
    """The times at which a command reached its parts, in seconds from the command's start.

    Args:
        folder: the current folder of the command.
        started: the time of the command's start.
        reached: the parts that the command has reached, with their times.
    """

    folder: Path
    started: float = field(default_factory=time.time)
    reached: dict[str, float] = field(default_factory=dict)

    def note(self, part: str, at: float | None = None) -> None:
        """Note that the command reached a part at a time, or now if `at` is None; only the first time counts."""
        self.reached.setdefault(part, (time.time() if at is None else at) - self.started)

    def read_records(self) -> None:
        """Note the parts that the run records show, and whether a peer's worker is ready."""
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
    except ValueError:  # the line is still being written
        return {}
    return row


def measure(way: str, before: Path | None) -> Mapping[str, float]:
    """Return the times of the parts of one cold start, and its CPU seconds; the command runs in a new folder."""
    with tempfile.TemporaryDirectory(prefix="cold-start-") as name:
        folder = Path(name)
        command, variables = command_of(way, before)
        env = os.environ | own_token(folder) | {"COLD_START_READY": str(folder / "ready")} | variables
        times = PartTimes(folder)
        with (folder / "err").open("w", encoding="utf-8") as error_file:
            process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=error_file, text=True, encoding="utf-8"
            )
            reader = threading.Thread(target=_read_output, args=(process, times))
            reader.start()
            processes = Processes(process.pid)
            while process.poll() is None:
                processes.measure()
                if processes.has_workers():
                    times.note("Ray up")
                times.read_records()
                time.sleep(_POLL_S)
            times.note("end")
            reader.join()
        if process.returncode:
            errors = (folder / "err").read_text(encoding="utf-8")
            raise SystemExit(f"{way} failed with exit code {process.returncode}:\n{errors[-4000:]}")
        return times.reached | {"CPU": sum(processes.cpu_seconds().values())}


def _read_output(process: "subprocess.Popen[str]", times: PartTimes) -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        times.note("first line")


def main() -> None:
    """Measure all ways in turn, and print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured in turn (default: 3)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all that are installed")
    add_before(parser)
    parser.add_argument("--one", choices=["actor", "hydra_ray"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        actor() if args.one == "actor" else hydra_app("ray", 2, import_libraries)
        return
    missing = {"before"} if args.before is None else set()
    if find_spec("hydra_plugins.hydra_ray_launcher") is None:
        missing.add("hydra_ray")
    ways = args.ways or [way for way in WAYS if way not in missing]
    check_before(parser, ways, args.before)
    rounds: dict[str, list[Mapping[str, float]]] = {way: [] for way in ways}
    load = os.getloadavg()[0]
    for _ in range(args.rounds):
        for way in ways:
            rounds[way].append(measure(way, args.before))
            print(way, {part: round(value, 1) for part, value in rounds[way][-1].items()}, file=sys.stderr, flush=True)
    words = _words(rounds, missing, load)
    if args.before is not None:
        words += f" {commit_sentence(args.before)}"
    publish("What a cold start takes", [_table(rounds), words], args.out)


def _table(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    rows = [
        [WAYS[way], *(_cell([times[part] for times in of_way if part in times]) for part in PARTS)]
        for way, of_way in rounds.items()
    ]
    return table(["s from the command", *PARTS[:-1], "CPU s of all processes"], rows)


def _cell(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _words(rounds: Mapping[str, Sequence[Mapping[str, float]]], missing: set[str], load: float) -> str:
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
    if "hydra_ray" in missing:
        words.append("hydra-ray-launcher was not installed.")
    return " ".join(words)


if __name__ == "__main__":
    main()
