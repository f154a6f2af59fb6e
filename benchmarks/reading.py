"""How soon a study's records are a typed table, beside mlflow.search_runs on an sqlite store of the same runs.

The runs are made up; their records hold what a finished run's hold but for weights and answers.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
from finished_result import finished_result
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from publishing import publish, script_parser, table

from gmt.axis import Axis
from gmt.records.digests import digests_at_the_end
from gmt.records.record import RunRecord
from gmt.tracking.mlflow_run import _flat
from gmt.tracking.outcomes import final_metrics
from gmt.tracking.sqlite import writes_without_waiting
from gmt.tracking.table import read_table

LIMITS_S = {1_000: 1.0, 10_000: 10.0}
SCIENCE = {
    "model": {"name": "nano", "path": "shipped:nano", "dtype": "float32", "attention": "sdpa"},
    "task": {"name": "long_words", "train": {"long_words": {"family": "spell_backward", "num_examples": 4000}}},
    "method": {"name": "gmt", "mask_ratio": 0.5, "signal": "gradient", "scope": "tensor", "refresh": 1},
    "train": {"name": "quickstart", "learning_rate": 0.002, "num_epochs": 1, "micro_batch_size": 16},
}


def records(folder: Path, number: int) -> list[RunRecord]:
    """Records of runs that are done, written without waiting for the disk."""
    made = []
    for seed in range(number):
        record = RunRecord(folder, f"{seed:016x}")
        record.folder.mkdir(parents=True)
        science = SCIENCE | {"seed": seed}
        files = {
            "config.json": {"run_id": record.id, "science": science, "config": science},
            "environment.json": {
                "commit": "0" * 40,
                "dirty": False,
                "device": "cpu",
                "torch_threads": 1,
                "cpu": "a core",
            },
            "result.json": finished_result(0.5 + seed / 1e6).to_json(),
        }
        for name, value in files.items():
            (record.folder / name).write_text(json.dumps(value, indent=2), encoding="utf-8")
        status = {"state": "done", "attempts": 1, "digests": digests_at_the_end(record.folder)}
        (record.folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
        made.append(record)
    return made


def store(uri: str, made: list[RunRecord]) -> str:
    """An MLflow experiment with the same runs."""
    writes_without_waiting()
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("reading")
    now = int(time.time() * 1000)
    for record in made:
        run = client.create_run(experiment).info.run_id
        science, values = record.read("config.json")["science"], final_metrics(record.result())
        params = [Param(key, value) for key, value in _flat(science).items()]
        client.log_batch(run, [Metric(key, value, now, 1) for key, value in values.items()], params)
        client.set_terminated(run)
    return str(experiment)


def best_s(do: Callable[[], object], rounds: int) -> float:
    """The shortest wall-clock seconds of a call."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        do()
        times.append(time.perf_counter() - started)
    return min(times)


def measured(size: int, folder: Path, rounds: int) -> tuple[float, float]:
    """Seconds until the typed table is there, and until MLflow's is."""
    made = records(folder / "runs", size)
    uri = f"sqlite:///{folder}/mlflow.db"
    experiment = store(uri, made)
    mlflow.set_tracking_uri(uri)
    ours = best_s(lambda: read_table((("gmt", "gmt", record) for record in made), axis=Axis()), rounds)
    return ours, best_s(lambda: mlflow.search_runs([experiment], max_results=size), rounds)


def main() -> None:
    """Measures and reports."""
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for size, limit_s in LIMITS_S.items():
        with tempfile.TemporaryDirectory() as scratch:
            ours, theirs = measured(size, Path(scratch), args.rounds)
        rows.append([f"{size:,}", f"{ours:.2f}", f"{limit_s:g}", f"{theirs:.2f}", f"{theirs / ours:.1f}"])
    head = ["runs", "gmt.tracking, s", "limit, s", "mlflow.search_runs, s", "ratio"]
    publish((__doc__ or "").strip().split("\n")[0], [table(head, rows)], args.out)


if __name__ == "__main__":
    main()
