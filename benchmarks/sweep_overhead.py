"""What one more short run of a sweep costs, beside the other ways to sweep.

A run does nothing but import torch and transformers. Ours also composes its config, keeps a run record with ten logged
steps, and brings MLflow (sqlite) level. The cost is the slope between a small and a large sweep, so that what is paid
once (starting Ray, importing) falls out.
"""

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finished_result import finished_result
from publishing import publish, script_parser, table

SMALL, LARGE = 20, 80
LIMIT_S = 0.1
NUM_METRICS = 10

WAYS = {
    "ours": "ours: plan, Ray Tune with warm workers, run record, MLflow",
    "basic": "Hydra's basic launcher, one after the other",
    "hydra_ray": "hydra-ray-launcher",
    "tune_warm": "Ray Tune by hand, reuse_actors=True",
    "tune_fresh": "Ray Tune by hand, a fresh actor each",
}


def short_run() -> None:
    """What every way does in a run."""
    import torch  # noqa: F401
    import transformers  # noqa: F401


def ours(num: int) -> None:
    """A sweep of ours over seeds, whose worker leaves out training and evaluation alone."""
    from gmt_launchers.planned_runs import launch_runs

    from gmt.composition import Composer, hydra_on
    from gmt.studies.frozen import STOP
    from gmt.studies.grid import StudySettings
    from gmt.studies.make_plan import make_plan
    from gmt.studies.progress import Lines
    from gmt.studies.sweep import run_sweep
    from gmt.tracking.settings import TrackingSettings

    study = StudySettings(name="overhead", question="none", shared={"seed": list(range(num))}, arms={"sft": {}})
    with hydra_on(None):
        plan = make_plan(Composer(), study, {"record.root": [os.getcwd()]})
    tracking = TrackingSettings(uri=f"sqlite:///{os.getcwd()}/mlflow.db", artifacts="artifacts", experiment="overhead")

    def launch(todo: Any, folder: Path) -> None:
        launch_runs([planned.run for planned in todo], folder / STOP, address=None, num_cpus=None, work=recorded)

    run_sweep(plan, tracking, launch, Lines(), say=print)


def recorded(config: Mapping[str, Any], stop: Path, go_on: object) -> Any:
    """A run with its whole record and no training."""
    from gmt.runs.attempt import Outcome
    from gmt.runs.build import build
    from gmt.runs.environment import environment

    run = build(config)
    record = run.record
    record.create(run.science, run.config)
    with record.at_work():
        record.set_status("running", attempts=1, started_at=time.time(), error=None)
        record.write("environment.json", environment())
        short_run()
        for step in range(NUM_METRICS):
            record.append_metrics(step, {"train/loss": 1.0, "train/tokens": step, "train/epoch": 0.0})
        record.write("result.json", finished_result(0.5).to_json())
        record.finish(ended_at=time.time())
    return Outcome(state="done")


def hydra_app(launcher: str, num: int) -> None:
    """A Hydra app of one value, swept over by Hydra's own sweeper."""
    import hydra
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="app", node={"x": 0})

    @hydra.main(version_base="1.3", config_path=None, config_name="app")
    def app(config: Any) -> int:
        short_run()
        return int(config.x)

    values = ",".join(map(str, range(num)))
    sys.argv = ["app", "-m", f"x={values}", f"hydra/launcher={launcher}", "hydra/sweeper=basic"]
    sys.argv += ["hydra/hydra_logging=disabled", "hydra/job_logging=disabled", "hydra.sweep.dir=multirun"]
    if launcher == "ray":  # it would join any cluster that it finds
        sys.argv.append("hydra.launcher.ray.init.address=local")
    app()


def tune(num: int, *, reuse_actors: bool) -> None:
    """Ray Tune as its guide shows it."""
    import ray
    from ray import tune as ray_tune

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def trainable(config: dict[str, int]) -> None:
        import torch  # noqa: F401
        import transformers  # noqa: F401

        ray_tune.report({"x": config["x"]})

    ray_tune.Tuner(
        trainable,
        param_space={"x": ray_tune.grid_search(list(range(num)))},
        tune_config=ray_tune.TuneConfig(reuse_actors=reuse_actors),
        run_config=ray_tune.RunConfig(storage_path=os.getcwd(), verbose=0),
    ).fit()
    ray.shutdown()


ONE = {
    "ours": ours,
    "basic": lambda num: hydra_app("basic", num),
    "hydra_ray": lambda num: hydra_app("ray", num),
    "tune_warm": lambda num: tune(num, reuse_actors=True),
    "tune_fresh": lambda num: tune(num, reuse_actors=False),
}


def seconds(way: str, num: int) -> float:
    """Wall-clock seconds of a sweep of `num` runs in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="sweep-overhead-") as folder:
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")  # the peers' Ray listens on every interface
        command = [sys.executable, str(Path(__file__).resolve()), "--one", way, str(num)]
        started = time.perf_counter()
        env = os.environ | {"RAY_AUTH_TOKEN_PATH": str(token)}
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8", check=False
        )
        if done.returncode:
            raise SystemExit(f"{way} with {num} runs failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return time.perf_counter() - started


def main() -> None:
    """Measures and reports."""
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured in turn (default: 3)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", nargs=2, metavar=("WAY", "NUM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        ONE[args.one[0]](int(args.one[1]))
        return
    slopes: dict[str, list[float]] = {way: [] for way in args.ways}
    for number in range(args.rounds):
        for way in args.ways:
            if way == "tune_fresh" and number:  # minutes a round, and far from the others
                continue
            small, large = seconds(way, SMALL), seconds(way, LARGE)
            slopes[way].append((large - small) / (LARGE - SMALL))
            print(f"{way}: {small:.1f} s for {SMALL}, {large:.1f} s for {LARGE}", file=sys.stderr, flush=True)
    publish("What one more short run costs", [_table(slopes), _words(slopes)], args.out)


def _table(slopes: Mapping[str, list[float]]) -> str:
    base = statistics.median(slopes["ours"]) if "ours" in slopes else float("nan")
    rows = [
        [
            WAYS[way],
            f"{statistics.median(s):.3f}",
            f"{min(s):.3f} to {max(s):.3f}",
            f"{statistics.median(s) / base:.1f}",
        ]
        for way, s in slopes.items()
    ]
    return table(["way", "s a run", "over the rounds", "ours = 1"], rows)


def _words(slopes: Mapping[str, list[float]]) -> str:
    return (
        f"Slope between sweeps of {SMALL} and {LARGE} runs; median over {len(slopes.get('ours', []))} rounds in turn. "
        f"Limit for ours: {LIMIT_S} s, hydra-ray-launcher's, and a twentieth of Tune's with fresh actors."
    )


if __name__ == "__main__":
    main()
