"""Estimates the time, GPU-hours and memory of a plan from similar runs that have finished."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gmt.records.record import RunRecord, State
from gmt.runs.settings import AUTO
from gmt.studies.plan import Plan, settled_states

_WITHOUT_COST = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "schedule", "warmup_ratio", "name")
_MOST_OTHER_RECORDS = 2000  # of other studies, newest first: enough to find similar runs, and read within seconds


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of the runs of a plan that are not done.

    Args:
        num_left: the number of runs that a sweep would do.
        num_known: the number of these for which a similar run has finished and its time is known.
        num_measured: the number of finished runs that the estimate uses.
        run_seconds: the time of all known runs, one after the other.
        gpu_hours: the GPU-hours of all known runs.
        peak_memory_bytes: the largest memory of a similar run; of the GPU if there is one, else of the process.
    """

    num_left: int
    num_known: int
    num_measured: int
    run_seconds: float
    gpu_hours: float
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The time and memory that a finished run took.

    Args:
        seconds: the time of all attempts.
        peak_memory_bytes: the memory of the GPU if there is one, else of the process.
    """

    seconds: float
    peak_memory_bytes: int


def estimate(plan: Plan, states: Mapping[str, State], *, num_gpus: int) -> Estimate:
    """Estimate the cost of the runs of a plan that are not done.

    Args:
        plan: the study's plan.
        states: the states of its runs, by run id.
        num_gpus: the number of GPUs of the machine that will do the runs, for `resources.gpus=auto`.
    """
    gpus_of_todo: dict[str, list[float]] = defaultdict(list)  # by kind of run, the GPUs of each run to do
    measured: dict[str, list[Cost]] = defaultdict(list)
    done = [planned for planned in plan.runs if states[planned.run.id] == "done"]
    for planned in done:
        ran_with = planned.record.read("config.json")["config"]["resources"]
        measured[_kind(planned.run.science, ran_with)] += measured_cost(planned.record)
    todo = [planned for planned in plan.runs if states[planned.run.id] not in settled_states(plan)]
    for planned in (*todo, *plan.later):
        run = planned.run.with_gpus(num_gpus)
        num_gpus_of_run = run.resources.num_gpus(0) * run.resources.workers
        gpus_of_todo[_kind(run.science, run.config["resources"])].append(num_gpus_of_run)
    missing = {kind for kind in gpus_of_todo if kind not in measured}
    if missing:
        for kind, cost in _costs_in_other_studies(plan, missing):
            measured[kind].append(cost)
    known = [kind for kind in gpus_of_todo if measured.get(kind)]
    mean = {kind: fmean(cost.seconds for cost in measured[kind]) for kind in known}
    return Estimate(
        num_left=sum(map(len, gpus_of_todo.values())),
        num_known=sum(len(gpus_of_todo[kind]) for kind in known),
        num_measured=sum(len(measured[kind]) for kind in known),
        run_seconds=sum(mean[kind] * len(gpus_of_todo[kind]) for kind in known),
        gpu_hours=sum(mean[kind] * sum(gpus_of_todo[kind]) for kind in known) / 3600,
        peak_memory_bytes=max((cost.peak_memory_bytes for kind in known for cost in measured[kind]), default=0),
    )


def _kind(science: Mapping[str, Any], resources: Mapping[str, Any]) -> str:
    """Return a key that is equal for runs of equal cost, whatever their seed, mask ratio or learning rate."""
    train = {key: value for key, value in science["train"].items() if key not in _WITHOUT_COST}
    gpus = resources.get("gpus")
    machine = [
        *(resources.get(key) for key in ("device", "cpus", "workers")),
        gpus if gpus in (None, AUTO) else float(gpus),
    ]
    task = {key: value for key, value in science["task"].items() if key != "data_seed"}
    parts = [science["model"], task, train, science["method"]["name"], machine, science.get("selection")]
    if (merge := science.get("merge")) is not None:
        parts.append(merge["name"])
    return json.dumps(parts, sort_keys=True)


def measured_cost(record: RunRecord) -> list[Cost]:
    """Return the cost of a finished run; an empty list if the end of an attempt, and so its time, is unknown."""
    result = record.result()
    if result.seconds is None:
        return []
    peak = 0 if result.training is None else result.training.peak_memory_bytes  # unknown for a merge
    return [Cost(seconds=result.seconds, peak_memory_bytes=peak)]


def _costs_in_other_studies(plan: Plan, kinds: set[str]) -> Iterator[tuple[str, Cost]]:
    ids_of_plan = {planned.run.id for planned in plan.runs}
    runs = plan.runs[0].run.record_settings.runs
    for folder in _newest(path for path in runs.glob("*/result.json") if path.parent.name not in ids_of_plan):
        record = RunRecord(runs, folder.name)
        stored = record.read("config.json")
        kind = _kind(stored["science"], stored["config"]["resources"])
        if kind in kinds and record.state() == "done":
            yield from ((kind, cost) for cost in measured_cost(record))


def _newest(results: Iterable[Path]) -> list[Path]:
    ordered = sorted(results, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in ordered[:_MOST_OTHER_RECORDS]]
