"""Records as finished runs leave them, with results that a test chooses."""

import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gmt.composition import Composer, hydra_on
from gmt.records.diagnoses import Diagnosis, file_of, write_diagnosis
from gmt.records.result import Result, TrainFacts
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.opened import planned
from gmt.studies.plan import Plan, PlannedRun
from tests.conftest import CONF

RESULT = Result(
    before={"target": {"mean": 0.1}, "source": {"mean": 0.95}},
    after={"target": {"mean": 0.5}, "source": {"mean": 0.9}},
    metrics={"before": {}, "after": {}},
    forgetting=0.05,
    training=TrainFacts(
        num_steps=100,
        num_tokens=10_000,
        density=None,
        forward_backward_s=0.12,
        mask_s=0.006,
        optimizer_s=0.01,
        seconds=20.0,
        peak_memory_bytes=2**29,
    ),
    target_density=None,
    moved_fraction=0.9,
    num_parameters=836_736,
    num_train_examples=4000,
    num_dropped_examples=0,
    weights_sha256="0" * 64,
    seconds=23.0,
)
_MAKE_STORE = """
import sys
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore(f"sqlite:///{sys.argv[1]}/mlflow.db", sys.argv[1])
"""


def plan_of(
    root: Path,
    arms: dict[str, dict[str, Any]],
    seeds: list[int],
    typed: Mapping[str, list[str]] | None = None,
    **settings: Any,
) -> Plan:
    """A study of nano's quickstart with its records below `root`, and with what a user types: key -> values."""
    study = StudySettings(name="made", question="What if?", shared={"seed": seeds}, arms=arms, **settings)
    with hydra_on(None):
        return make_plan(Composer(), study, {"record.root": [str(root)], **(typed or {})})


def done_study() -> Plan:
    """The tiny study with its records below this folder, all done."""
    plan, _ = planned(["study=tiny"], str(CONF))
    for number, each in enumerate(plan.runs):
        finish(each, 0.5 + number / 100)
    shutil.copy(Path(_made_store().name) / "mlflow.db", plan.runs[0].record.folder.parents[1])
    return plan


@cache
def _made_store() -> "tempfile.TemporaryDirectory[str]":
    """A folder with an empty MLflow database: to make its tables takes MLflow more than a second.

    It is made in a process of its own: the one at hand keeps connections open, and a copy of a database that is open
    may lack what was written last.
    """
    folder = tempfile.TemporaryDirectory()
    subprocess.run([sys.executable, "-c", _MAKE_STORE, folder.name], check=True, capture_output=True)
    return folder


def finish(run: PlannedRun, target: float, source: float = 0.9, *, dirty: bool = False) -> None:
    """Leaves the record of a run that went from 10 % to `target`, and from 95 % to `source`."""
    record, ratio = run.record, run.run.config["method"].get("mask_ratio")
    record.create(run.run.science, run.run.config)
    density = None if ratio is None else 1 - ratio
    result = dataclasses.replace(
        RESULT,
        after={"target": {"mean": target}, "source": {"mean": source}},
        forgetting=0.95 - source,
        training=dataclasses.replace(RESULT.training, density=density or 1.0),
        target_density=density,
    )
    record.write("result.json", result.to_json())
    versions = dict.fromkeys(("gmt-lab", "torch", "transformers"), "1")
    machine = {"device": "cpu", "gpus": [], "torch_threads": 1, "cpu": "a core"}
    record.write("environment.json", {**machine, "versions": versions, "commit": "0" * 40, "dirty": dirty})
    record.finish(attempts=1, started_at=0.0, ended_at=23.0)


def measured(run: PlannedRun, values: dict[str, float], diagnostic: str = "operations") -> None:
    """Writes the values of a diagnostic into the record of a finished run."""
    settings = {"name": diagnostic}
    file = file_of(run.record, diagnostic, settings)
    file.parent.mkdir(exist_ok=True)
    found = Diagnosis(
        diagnostic=diagnostic,
        settings=settings,
        code={},
        weights={run.run.id: run.record.result().weights_sha256},
        other=None,
        shown={"title": diagnostic, "panels": dict.fromkeys(values, "a value")},
        rows=[{"layer": None, "matrix": None, "name": name, "value": value} for name, value in values.items()],
        seconds=1.0,
        device="cpu",
    )
    write_diagnosis(file, found)
