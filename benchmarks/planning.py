"""What planning costs: composing and checking every run of a large study, beside Hydra composing the same runs.

Also how long a finished study of 1,000 runs takes to sweep again, and how soon a command that only plans has started.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose
from publishing import publish, script_parser, table

from gmt.composition import Composer, hydra_on, to_plain
from gmt.studies.expansion import expand
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan

LARGE, FINISHED, SAMPLE = 10_000, 1_000, 200
LIMITS_S = {"plan": 5.0, "again": 3.0, "start": 0.5}


def study(num_seeds: int) -> StudySettings:
    """20 runs a seed: four arms, one of them over learning rates, two over mask ratios."""
    ratios = [0.1, 0.3, 0.5, 0.7, 0.9]
    arms = {
        "sft": {"method": "sft", "train.learning_rate": [1e-4, 3e-4, 1e-3, 2e-3, 3e-3]},
        "gmt": {"method": "gmt", "method.mask_ratio": ratios},
        "gmt_update": {"method": "gmt_update", "method.mask_ratio": ratios},
        "rmt": {"method": "rmt", "method.mask_ratio": ratios},
    }
    seeds = list(range(num_seeds))
    return StudySettings(name="large", question="How long does it take?", shared={"seed": seeds}, arms=arms)


def written(made: StudySettings, folder: Path) -> list[str]:
    """The arguments by which a command finds a study."""
    import yaml

    path = folder / "study" / f"{made.name}.yaml"
    path.parent.mkdir(exist_ok=True)
    values = {"name": made.name, "question": made.question, "shared": dict(made.shared), "arms": dict(made.arms)}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return [f"study={made.name}", "--config-dir", str(folder)]


def command_s(arguments: Sequence[str], folder: Path, rounds: int) -> float:
    """Median wall-clock seconds of a whole command of ours."""
    return python_s(["-m", "gmt", *arguments], folder, rounds)


def python_s(arguments: Sequence[str], folder: Path, rounds: int) -> float:
    """Median wall-clock seconds of an interpreter."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def finish(plan: Plan) -> None:
    """Leaves the records of a study that is done."""
    for planned in plan.runs:
        planned.record.create(planned.run.science, planned.run.config)
        planned.record.write("result.json", {"seconds": 1.0, "training": {"peak_memory_bytes": 1}})
        planned.record.finish(attempts=1)


def main() -> None:
    """Measures and reports."""
    args = script_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="planning-") as name:
        folder = Path(name)
        start = python_s(["-c", "import gmt.commands.plan"], folder, 9)
        small = command_s(["plan", *written(study(1), folder)], folder, 5)
        large = command_s(["plan", *written(study(LARGE // 20), folder)], folder, 3)
        with hydra_on(None):
            points = expand(study(LARGE // 20), {})
            started = time.perf_counter()
            make_plan(Composer(), study(LARGE // 20), {})
            ours = time.perf_counter() - started
            started = time.perf_counter()
            for point in points[:: len(points) // SAMPLE]:
                to_plain(compose("config", overrides=list(point.overrides)))
            hydras = (time.perf_counter() - started) / SAMPLE * LARGE
            finish(make_plan(Composer(), study(FINISHED // 20), {"record.root": [str(folder / "gmt-results")]}))
        again = command_s(["sweep", *written(study(FINISHED // 20), folder), "tracking=none"], folder, 3)
    rows = [
        [f"`gmt plan` of {LARGE:,} runs, the whole command", f"{large:.2f}", f"{LIMITS_S['plan']:g}"],
        ["of that composing, checking, hashing", f"{ours:.2f}", ""],
        [f"Hydra's own composition of the same, from {SAMPLE} of them", f"{hydras:.0f}", ""],
        [f"`gmt sweep` of a finished study of {FINISHED:,} runs", f"{again:.2f}", f"{LIMITS_S['again']:g}"],
        ["a command that only plans, until it begins to compose", f"{start:.2f}", f"{LIMITS_S['start']:g}"],
        ["`gmt plan` of 20 runs, the whole command: Hydra composes each of its four kinds", f"{small:.2f}", ""],
    ]
    words = f"Ours takes 1/{hydras / ours:.0f} of the time that Hydra's composition alone takes."
    publish("What planning costs", [table(["what", "s", "limit"], rows), words], args.out)


if __name__ == "__main__":
    main()
