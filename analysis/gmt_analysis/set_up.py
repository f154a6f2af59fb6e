"""The set-up of a study, for its report: models, data, training, arms, and the commands that reproduce it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt.listed import some
from gmt.studies.plan import PlannedRun

if TYPE_CHECKING:
    from gmt_analysis.results import Results

# Group and setting -> its name on the page. Settings that no run has are left out, and so are null ones.
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "model": {"name": "Model", "path": "Model files", "revision": "Revision", "dtype": "Weights in"},
    "task": {"data_seed": "Data seed", "max_new_tokens": "Tokens of an answer, at most"},
    "selection": {"name": "Selection of examples"},
    "train": {
        "paradigm": "Training",
        "optimizer": "Optimizer",
        "learning_rate": "Learning rate",
        "schedule": "Schedule",
        "warmup_ratio": "Warm-up, share of the steps",
        "weight_decay": "Weight decay",
        "max_grad_norm": "Gradient norm, clipped at",
        "num_epochs": "Epochs",
        "max_length": "Tokens of an example, at most",
        "precision": "Precision",
    },
}


@dataclass(frozen=True, kw_only=True)
class SetUp:
    """The set-up of a study in words.

    Args:
        settings: the name and the value of each setting; several values if runs differ in it.
        arms: the name and the settings of each arm.
        commands: lines for a shell.
    """

    settings: Sequence[tuple[str, str]]
    arms: Sequence[tuple[str, str]]
    commands: Sequence[str]


def set_up(results: Results, overrides: Sequence[str]) -> SetUp:
    """Return the set-up of a study's finished runs.

    Args:
        results: the results of the study.
        overrides: the overrides of the command, e.g. `study=quickstart`.
    """
    study, done = results.plan.study, results.done
    words = shlex.join(overrides or [f"study={study.name}"])
    commits = results.table.loc[results.table["state"] == "done", "commit"].dropna().unique()
    checkout = [f"git checkout {commits[0][:12]}"] if len(commits) == 1 else []
    return SetUp(
        settings=[*_settings(done), *_sizes(results)],
        arms=[(arm, ", ".join(f"{key}={value}" for key, value in axes.items())) for arm, axes in study.arms.items()],
        commands=[*checkout, f"gmt sweep {words}", f"gmt report {words}"],
    )


def _settings(done: Sequence[PlannedRun]) -> list[tuple[str, str]]:
    configs = [planned.run.config for planned in done]
    rows = []
    for group, names in _SETTINGS.items():
        for key, name in names.items():
            values = [(config.get(group) or {}).get(key) for config in configs]
            if shown := _values(value for value in values if value is not None):
                rows.append((name, shown))
    batches = (
        f"{train['micro_batch_size'] * train['accumulation_steps']} ({train['accumulation_steps']} mini-batches of "
        f"{train['micro_batch_size']})"
        for train in (config["train"] for config in configs)
    )
    return [*rows, ("Examples in a step", _values(batches)), ("Seeds", _values(planned.run.seed for planned in done))]


def _sizes(results: Results) -> list[tuple[str, str]]:
    """Return the numbers of parameters, examples, steps and questions."""
    table = results.table[results.table["state"] == "done"]
    columns = {
        "num_parameters": "Parameters of the evaluated model",
        "num_train_examples": "Training examples",
        "num_dropped_examples": "Examples dropped as too long",
        "num_steps": "Optimizer steps",
        "num_tokens": "Training tokens",
    }
    by_task = {str(task): runs for task, runs in table.groupby("task", sort=False)}
    several = len(by_task) > 1
    rows = []
    for column, name in columns.items():
        shown = {task: _range(runs[column].dropna().tolist()) for task, runs in by_task.items()}
        if any(shown.values()):
            text = (
                "; ".join(f"{task}: {value}" for task, value in shown.items())
                if several
                else next(iter(shown.values()))
            )
            rows.append((name, text))
    suites = results.suites.drop_duplicates(["task", "part", "suite"])
    for task, of_task in suites.groupby("task", sort=False):
        for part, of_part in of_task.groupby("part", sort=False):
            rows.append((f"{str(part).capitalize()} suites of {task}", ", ".join(of_part["suite"])))
    return rows


def _range(values: Sequence[Any]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _values(values: Iterable[object]) -> str:
    """Return the distinct values of a setting, e.g. `1, 2, 3`."""
    distinct = list(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value) for value in values))
    return some(distinct, most=8)
