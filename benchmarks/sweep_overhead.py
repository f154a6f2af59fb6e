"""Times one more short run of a sweep, for `gmt sweep` and for other ways to sweep.

A run only imports torch and transformers. `gmt sweep` also composes the run's config, writes a run record with ten
logged steps, and mirrors the record to MLflow (sqlite). One of the other ways writes to MLflow in each job, as
MLflow's guide does; the rest record nothing. The cost of a run is the slope between a small and a large sweep, which
leaves out costs that a sweep has once (starting Ray, importing). The script also prints the CPU seconds of the driver,
of Ray's workers and of Ray's own processes.
"""

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from earlier_state import add_before, check_before, commit_sentence, import_path
from finished_result import finished_result
from processes import DRIVER, OTHERS, WORKERS, Processes
from publishing import publish, script_parser, table

SMALL, LARGE = 20, 400
LARGE_FRESH = 40  # a fresh actor takes seconds
LIMIT_S = 0.06
NUM_METRICS = 10
NUM_PARAMS, NUM_FINAL_METRICS = 57, 19  # of a peer's job in MLflow; a run of ours has 88 params, and as many metrics
WALL = "wall"
_POLL_S = 0.5

WAYS = {
    "ours": "ours: plan, Ray Tune with warm workers, run record, MLflow",
    "before": "ours, an earlier state",
    "ours_untracked": "ours without MLflow",
    "basic": "Hydra's basic launcher, one after the other",
    "hydra_ray": "hydra-ray-launcher",
    "hydra_ray_tracked": "hydra-ray-launcher, each job writes to MLflow",
    "tune_warm": "Ray Tune by hand, reuse_actors=True",
    "tune_fresh": "Ray Tune by hand, a fresh actor each",
}


def short_run() -> None:
    """Do the work of a run, which is the same for every way."""
    import torch  # noqa: F401
    import transformers  # noqa: F401


def tracked_run() -> None:
    """Do the work of a run, and write about as many values to MLflow as a run of ours has; see `make_store`."""
    short_run()
    import mlflow

    with mlflow.start_run():
        mlflow.log_params({f"setting_{number}": "value" for number in range(NUM_PARAMS)})
        for step in range(NUM_METRICS):
            mlflow.log_metrics({"train/loss": 1.0, "train/tokens": step, "train/epoch": 0.0}, step=step)
        mlflow.log_metrics({f"final/{number}": 1.0 for number in range(NUM_FINAL_METRICS)})
        mlflow.log_dict({"setting": "value"}, "config.json")


def make_store() -> None:
    """Make an MLflow store in this folder before jobs write to it side by side, and name it in the environment."""
    import mlflow

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{os.getcwd()}/mlflow.db"
    mlflow.search_experiments()


def ours(num: int, *, is_tracked: bool) -> None:
    """Sweep over seeds as `gmt sweep` does, with runs that do everything but train and evaluate."""
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
    uri = f"sqlite:///{os.getcwd()}/mlflow.db" if is_tracked else None
    tracking = TrackingSettings(uri=uri, artifacts="artifacts", experiment="overhead")

    def launch(todo: Any, folder: Path) -> None:
        launch_runs([planned.run for planned in todo], folder / STOP, address=None, num_cpus=None, work=do_recorded_run)

    run_sweep(plan, tracking, launch, Lines(), say=print, remedy="gmt sync")


def do_recorded_run(config: Mapping[str, Any], stop: Path, report_score: object) -> Any:
    """Write the complete record of a run that does not train."""
    from gmt.runs.attempt import Outcome
    from gmt.runs.build import build
    from gmt.runs.environment import environment

    run = build(config)
    record = run.record
    record.create(run.science, run.config)
    with record.locked():
        record.set_status("running", attempts=1, started_at=time.time(), error=None)
        record.write("environment.json", environment())
        short_run()
        for step in range(NUM_METRICS):
            record.append_metrics(step, {"train/loss": 1.0, "train/tokens": step, "train/epoch": 0.0})
        record.write("result.json", finished_result(0.5).to_json())
        record.finish(ended_at=time.time())
    return Outcome(state="done")


def hydra_app(launcher: str, num: int, work: Callable[[], None] = short_run) -> None:
    """Sweep over the one setting of a Hydra app by Hydra's own sweeper; each job does the work."""
    if work is tracked_run:
        make_store()
    import hydra
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="app", node={"x": 0})
    # Needed when cold_start.py is the script. The app has no config files that Hydra would have to find.
    os.environ["HYDRA_MAIN_MODULE"] = "__main__"

    @hydra.main(version_base="1.3", config_path=None, config_name="app")
    def app(config: Any) -> int:
        work()
        return int(config.x)

    values = ",".join(map(str, range(num)))
    sys.argv = ["app", "-m", f"x={values}", f"hydra/launcher={launcher}", "hydra/sweeper=basic"]
    sys.argv += ["hydra/hydra_logging=disabled", "hydra/job_logging=disabled", "hydra.sweep.dir=multirun"]
    if launcher == "ray":  # by default the launcher joins any cluster that it finds
        sys.argv.append("hydra.launcher.ray.init.address=local")
    app()


def tune(num: int, *, reuse_actors: bool) -> None:
    """Sweep by Ray Tune in the way of its guide."""
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


SWEEPS = {
    "ours": lambda num: ours(num, is_tracked=True),
    "ours_untracked": lambda num: ours(num, is_tracked=False),
    "basic": lambda num: hydra_app("basic", num),
    "hydra_ray": lambda num: hydra_app("ray", num),
    "hydra_ray_tracked": lambda num: hydra_app("ray", num, tracked_run),
    "tune_warm": lambda num: tune(num, reuse_actors=True),
    "tune_fresh": lambda num: tune(num, reuse_actors=False),
}


def own_token(folder: Path) -> dict[str, str]:
    """Write a token for the peers' Ray, which listens on every interface, and return the variable that names it."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    token.chmod(0o600)
    return {"RAY_AUTH_TOKEN_PATH": str(token)}


def command_of(way: str, num: int, before: Path | None) -> tuple[list[str], dict[str, str]]:
    """Return the command of a sweep of `num` runs, and its additional environment variables.

    Args:
        way: a key of WAYS.
        num: the number of runs.
        before: another checkout of this repository, whose own script makes the sweep; needed for the way `before`.
    """
    script = Path(__file__).resolve()
    if way != "before":
        return [sys.executable, str(script), "--one", way, str(num)], {}
    assert before is not None
    earlier_script = before.resolve() / "benchmarks" / script.name
    return [sys.executable, str(earlier_script), "--one", "ours", str(num)], import_path(before)


def seconds(way: str, num: int, before: Path | None) -> dict[str, float]:
    """Return the wall-clock and CPU seconds of a sweep of `num` runs, in a new process and a new folder."""
    with tempfile.TemporaryDirectory(prefix="sweep-overhead-") as name:
        folder = Path(name)
        command, variables = command_of(way, num, before)
        started, env = time.perf_counter(), os.environ | own_token(folder) | variables
        with (folder / "out").open("w+", encoding="utf-8") as out:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)
            processes = Processes(process.pid)
            while process.poll() is None:
                processes.measure()
                time.sleep(_POLL_S)
            wall = time.perf_counter() - started
            if process.returncode:
                out.seek(0)
                raise SystemExit(
                    f"{way} with {num} runs failed with exit code {process.returncode}:\n{out.read()[-4000:]}"
                )
        return {WALL: wall} | processes.cpu_seconds()


def slope(way: str, before: Path | None) -> dict[str, float]:
    """Return the seconds that one more run takes, by part, from a small and a large sweep."""
    num_large = LARGE_FRESH if way == "tune_fresh" else LARGE
    small, large = seconds(way, SMALL, before), seconds(way, num_large, before)
    per_run = {part: (large[part] - small[part]) / (num_large - SMALL) for part in small}
    shown = ", ".join(f"{part} {value:.3f}" for part, value in per_run.items())
    sizes = f"{small[WALL]:.1f} s for {SMALL}, {large[WALL]:.1f} s for {num_large}"
    print(f"{way}: {sizes}; a run: {shown}", file=sys.stderr, flush=True)
    return per_run


def main() -> None:
    """Measures and reports."""
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is measured in turn (default: 5)")
    add_before(parser)
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all, `before` only with --before")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "NUM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        SWEEPS[args.one[0]](int(args.one[1]))
        return
    ways = args.ways or [way for way in WAYS if way != "before" or args.before is not None]
    check_before(parser, ways, args.before)
    slopes: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(args.rounds):
        for way in ways:
            if way != "tune_fresh" or not number:  # minutes a round, and far from the others
                slopes[way].append(slope(way, args.before))
    words = _words(slopes)
    if "before" in ways:
        words += f" {commit_sentence(args.before)}"
    publish("What one more short run costs", [_table(slopes), words], args.out)


def _table(slopes: Mapping[str, list[dict[str, float]]]) -> str:
    ours = [slope[WALL] for slope in slopes.get("ours", [])]
    base = statistics.median(ours) if ours else float("nan")
    rows = []
    for way, rounds in slopes.items():
        walls = [slope[WALL] for slope in rounds]
        cpu = [f"{statistics.median([slope[part] for slope in rounds]):.3f}" for part in (DRIVER, WORKERS, OTHERS)]
        wall, spread = statistics.median(walls), f"{min(walls):.3f} to {max(walls):.3f}"
        rows.append([WAYS[way], f"{wall:.3f}", spread, *cpu, f"{wall / base:.1f}"])
    parts = [f"CPU s: {part}" for part in (DRIVER, WORKERS, OTHERS)]
    return table(["way", "s a run", "over the rounds", *parts, "ours = 1"], rows)


def _words(slopes: Mapping[str, list[dict[str, float]]]) -> str:
    fresh = f" ({LARGE_FRESH} with fresh actors, one round)" if "tune_fresh" in slopes else ""
    limits = [f"{LIMIT_S} s"]
    limits += ["the time of hydra-ray-launcher"] if "hydra_ray" in slopes else []
    limits += ["a twentieth of Tune's with fresh actors"] if "tune_fresh" in slopes else []
    words = (
        f"Slope between sweeps of {SMALL} and {LARGE} runs{fresh}; medians over {len(slopes.get('ours', []))} rounds "
        f"in turn. Limits for ours: {', '.join(limits)}."
    )
    if slopes.get("ours") and slopes.get("before"):
        pairs = zip(slopes["ours"], slopes["before"], strict=True)
        ratios = [ours[WALL] / earlier[WALL] for ours, earlier in pairs]
        words += f" Ours / an earlier state: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})."
    return words


if __name__ == "__main__":
    main()
