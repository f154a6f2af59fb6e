"""Finds lm-eval's tasks, loads their data, and refuses settings that a task does not support."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from gmt.errors import UserError, choices
from gmt.machine_faults import machine_faults_first
from gmt.tasks.rows import cached_of_hub
from gmt.used_files import UsedFiles


@lru_cache(maxsize=1)
def manager() -> Any:
    """Return lm-eval's task manager; making it takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def task_to_load(task: str, data: str | None) -> str | dict[str, Any]:
    """Return the argument by which lm-eval loads a task: the name of a task or group, or a config with local data.

    Raises:
        UserError: lm-eval has no such task, or local data is given for several tasks.
    """
    known_tasks = manager().all_tasks
    if task not in known_tasks:
        raise UserError(f"lm-eval has no task {task!r}; {_nearest(task, known_tasks)}")
    if data is None:
        return task
    if _has_several_tasks(task):
        raise UserError(f"data must be null for {task}, which stands for several tasks of lm-eval, got {data!r}")
    # A group of one task, since lm-eval overrides the settings of its tasks only for members of a group.
    folder = str(Path(os.path.expanduser(data)).absolute())
    return {
        "group": f"{task}_on_local_data",
        "task": [{"task": task, "dataset_path": folder, "dataset_name": None}],
    }


def load(task: str, data: str | None) -> Mapping[str, Any]:
    """Return `tasks` and `groups` by name, as lm-eval's TaskManager loads them.

    Raises:
        UserError: their data can't be loaded, or has another layout.
    """
    with explain_data_errors(task, data):
        loaded: Mapping[str, Any] = manager().load([task_to_load(task, data)])
    return loaded


@contextmanager
def explain_data_errors(task: str, data: str | None) -> Iterator[None]:
    """Turn errors of lm-eval and datasets about a task's data into a sentence.

    Raises:
        UserError: the data can't be loaded, or has another layout; the sentence has the library's reason.
        MachineFault: the hub can't be reached, or the disk fails.
    """
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from jinja2 import TemplateError

    try:
        with machine_faults_first(f"the data of benchmark {task}"):
            yield
    except (DatasetNotFoundError, DatasetGenerationError, OSError) as error:
        remedy = (
            "without access to the hub, the data must be in the cache of datasets (HF_HOME)"
            if _has_several_tasks(task)
            else "`data` may name a local folder with the data"
        )
        raise UserError(f"the data of benchmark {task} can't be loaded ({_reason(error)}); {remedy}") from error
    except (LookupError, TypeError, ValueError, TemplateError) as error:
        if data is None:
            raise
        raise UserError(
            f"data must be laid out as the hub's dataset of lm-eval's task {task} is, got {data!r}, which raises "
            f"{type(error).__name__}: {_reason(error)}"
        ) from error


def used_files(loaded: Mapping[str, Any]) -> dict[str, UsedFiles]:
    """Return the files in the cache of datasets that hold the hub's data, by lm-eval's name of each task."""
    return {
        name: cached_of_hub(dataset.values())
        for name, task in loaded["tasks"].items()
        if isinstance(dataset := getattr(task, "dataset", None), Mapping)
    }


def check_metric(task: str, metric: str, loaded: Mapping[str, Any]) -> None:
    """Refuse a metric that the results will not have.

    If a function of the task names its metrics, they are unknown until questions are asked, so no metric is refused.

    Raises:
        UserError: the metric is unknown; the sentence lists the known ones.
    """
    if group := loaded["groups"].get(task):
        known_metrics = [_metrics_of_group(group, loaded["tasks"].values())]
    else:
        known_metrics = [_metrics_of_task(member) for member in loaded["tasks"].values()]
    for known in known_metrics:
        if known is not None and metric not in known:
            raise UserError(
                f"metric must be one that lm-eval has for {task}, got {metric!r} (on a command line a comma needs "
                f"quotes: metric=\\'...\\'); {choices(metric, known)}"
            )


def check_numbers(task: str, num_fewshot: int | None, num_examples: int | None, loaded: Mapping[str, Any]) -> None:
    """Refuse numbers that lm-eval would silently replace.

    Raises:
        UserError: a number is too large; the sentence has the largest possible one.
    """
    tasks = loaded["tasks"].values()
    if num_fewshot:
        if fixed := [member.task_name for member in tasks if member.config.num_fewshot == 0]:
            raise UserError(
                f"num_fewshot must be 0 or null for {task}, since lm-eval never shows examples for {fixed[0]}, got "
                f"{num_fewshot}"
            )
        fewest = min(len(list(member.fewshot_docs() or ())) for member in tasks)
        if num_fewshot > fewest:
            raise UserError(
                f"num_fewshot must be at most {fewest} for {task}, which has no more examples to show, got "
                f"{num_fewshot}"
            )
    if num_examples is not None and num_examples > (most := max(len(member.eval_docs) for member in tasks)):
        raise UserError(
            f"num_examples must be at most {most} for {task}, which has no more questions, got {num_examples}"
        )


def check_targets(data: str, loaded: Mapping[str, Any]) -> None:
    """Refuse local data with a question that has no answer, since every answer of a model would be wrong.

    Raises:
        UserError: a row has no answer; the sentence names the row.
    """
    for task in loaded["tasks"].values():
        for number, row in enumerate(task.eval_docs, start=1):
            if task.doc_to_target(row) in (None, "", "None"):
                raise UserError(f"data must hold an answer to each question, and row {number} of {data!r} has none")


def _metrics_of_task(task: Any) -> list[str] | None:
    """Return the names of a task's metrics; None if functions of the task name them."""
    if any(callable(entry["metric"]) for entry in task.config.metric_list or ()):
        return None
    filters = [entry["name"] for entry in task.config.filter_list or ({"name": "none"},)]
    return [f"{metric},{filter_name}" for metric in task.aggregation() for filter_name in filters]


def _metrics_of_group(group: Any, tasks: Iterable[Any]) -> list[str] | None:
    task_metrics = [_metrics_of_task(task) for task in tasks]
    if None in task_metrics:
        return None
    known = set[str]().union(*(metrics or () for metrics in task_metrics))
    aggregated = [(entry.metric, entry.filter_list) for entry in group.aggregate_metric_list or ()]
    return [
        name
        for name in sorted(known)
        for metric, filters in aggregated
        if name.partition(",")[0] == metric and (filters is None or name.partition(",")[2] in filters)
    ]


def _has_several_tasks(task: str) -> bool:
    """Return whether a name of lm-eval stands for a group or a tag."""
    task_manager = manager()
    return task in {*task_manager.all_groups, *task_manager.all_tags}


def _reason(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())[:300]


def _nearest(wanted: str, names: Iterable[str]) -> str:
    """Return a clause with the nearest names, since lm-eval has thousands of tasks."""
    from difflib import get_close_matches

    near = get_close_matches(wanted, list(names), n=5)
    return f"did you mean {', '.join(near)}?" if near else "`lm_eval ls tasks` lists them"
