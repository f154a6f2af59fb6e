"""lm-eval's tasks: finds them, loads their data, and refuses what they can't be asked for."""

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
    """Knows lm-eval's tasks; takes seconds to look for them."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def named(task: str, data: str | None) -> str | dict[str, Any]:
    """What lm-eval is to load: a task or group by its name, or a task on data of a local folder.

    Raises:
        UserError: it has no such task, or data is given for several.
    """
    known = manager()
    if task not in known.all_tasks:
        raise UserError(f"lm-eval has no task {task!r}; {_nearest(task, known.all_tasks)}")
    if data is None:
        return task
    if _is_several(task):
        raise UserError(f"data must be null for {task}, which is several tasks of lm-eval, got {data!r}")
    # a group of the one task: only members of a group are lm-eval's own tasks with other settings
    folder = str(Path(os.path.expanduser(data)).absolute())
    return {
        "group": f"{task}_on_local_data",
        "task": [{"task": task, "dataset_path": folder, "dataset_name": None}],
    }


def load(task: str, data: str | None) -> Mapping[str, Any]:
    """`tasks` and `groups` by name, as lm-eval's TaskManager loads them.

    Raises:
        UserError: their data can't be had, or is laid out in another way.
    """
    with data_or_sentence(task, data):
        loaded: Mapping[str, Any] = manager().load([named(task, data)])
    return loaded


@contextmanager
def data_or_sentence(task: str, data: str | None) -> Iterator[None]:
    """Says in a sentence what lm-eval or datasets raise where the data of a task can't be had or has another layout.

    Raises:
        UserError: with their reason.
        MachineFault: the hub can't be reached, or the disk fails.
    """
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from jinja2 import TemplateError

    try:
        with machine_faults_first(f"the data of benchmark {task}"):
            yield
    except (DatasetNotFoundError, DatasetGenerationError, OSError) as error:
        advice = (
            "it must be in the cache of datasets (HF_HOME) where the hub can't be reached"
            if _is_several(task)
            else "`data` may name a local folder with it"
        )
        raise UserError(f"the data of benchmark {task} can't be had ({_reason(error)}); {advice}") from error
    except (LookupError, TypeError, ValueError, TemplateError) as error:
        if data is None:
            raise
        raise UserError(
            f"data must be laid out as the hub's dataset of lm-eval's task {task} is, got {data!r}: "
            f"{type(error).__name__}, {_reason(error)}"
        ) from error


def used_files(loaded: Mapping[str, Any]) -> dict[str, UsedFiles]:
    """The files in the cache of datasets that hold the data of the hub, by lm-eval's name of each task."""
    return {
        name: cached_of_hub(dataset.values())
        for name, task in loaded["tasks"].items()
        if isinstance(dataset := getattr(task, "dataset", None), Mapping)
    }


def check_metric(task: str, metric: str, loaded: Mapping[str, Any]) -> None:
    """Refuses a metric that the results will not have, as far as that is known before anything is asked.

    A metric that a task computes by a function of its own may have any name.

    Raises:
        UserError: with those that there are.
    """
    if group := loaded["groups"].get(task):
        wholes = [_of_group(group, loaded["tasks"].values())]
    else:
        wholes = [_of_task(each) for each in loaded["tasks"].values()]
    for known in wholes:
        if known is not None and metric not in known:
            raise UserError(
                f"metric must be one that lm-eval has for {task}, got {metric!r} (on a command line a comma wants "
                f"quotes: metric=\\'...\\'); {choices(metric, known)}"
            )


def check_numbers(task: str, num_fewshot: int | None, num_examples: int | None, loaded: Mapping[str, Any]) -> None:
    """Refuses numbers that lm-eval would replace by others without a word.

    Raises:
        UserError: with the number that there is.
    """
    tasks = loaded["tasks"].values()
    if num_fewshot:
        if fixed := [each.task_name for each in tasks if each.config.num_fewshot == 0]:
            raise UserError(
                f"num_fewshot must be 0 or null for {task}, since lm-eval shows {fixed[0]} no examples, whatever "
                f"is set, got {num_fewshot}"
            )
        fewest = min(len(list(each.fewshot_docs() or ())) for each in tasks)
        if num_fewshot > fewest:
            raise UserError(f"num_fewshot must be at most {fewest} for {task}, the examples to show, got {num_fewshot}")
    if num_examples is not None and num_examples > (most := max(len(each.eval_docs) for each in tasks)):
        raise UserError(f"num_examples must be at most {most} for {task}, the questions there are, got {num_examples}")


def check_targets(data: str, loaded: Mapping[str, Any]) -> None:
    """Refuses local data with a question that has no answer: nothing that a model says would be right.

    Raises:
        UserError: with the row.
    """
    for task in loaded["tasks"].values():
        for number, row in enumerate(task.eval_docs, start=1):
            if task.doc_to_target(row) in (None, "", "None"):
                raise UserError(f"data must hold an answer to each question, and row {number} of {data!r} has none")


def _of_task(task: Any) -> list[str] | None:
    """The metrics of a task by lm-eval's names, or None where functions name them."""
    if any(callable(each["metric"]) for each in task.config.metric_list or ()):
        return None
    filters = [each["name"] for each in task.config.filter_list or ({"name": "none"},)]
    return [f"{metric},{kind}" for metric in task.aggregation() for kind in filters]


def _of_group(group: Any, tasks: Iterable[Any]) -> list[str] | None:
    of_tasks = [_of_task(each) for each in tasks]
    if None in of_tasks:
        return None
    known = set[str]().union(*(each or () for each in of_tasks))
    summed = [(each.metric, each.filter_list) for each in group.aggregate_metric_list or ()]
    return [
        name
        for name in sorted(known)
        for metric, filters in summed
        if name.partition(",")[0] == metric and (filters is None or name.partition(",")[2] in filters)
    ]


def _is_several(task: str) -> bool:
    known = manager()
    return task in {*known.all_groups, *known.all_tags}


def _reason(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())[:300]


def _nearest(wanted: str, names: Iterable[str]) -> str:
    """There are thousands: those that are near."""
    from difflib import get_close_matches

    near = get_close_matches(wanted, list(names), n=5)
    return f"did you mean {', '.join(near)}?" if near else "`lm_eval ls tasks` lists them"
