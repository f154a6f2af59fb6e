"""A study read back from its run records as a tidy table: one row a run, declared types. Imports no MLflow."""

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, geometric_mean
from typing import Any

import pandas as pd

from gmt.axis import Axis, seed_of
from gmt.errors import UserError
from gmt.records.derived import contradiction_in
from gmt.records.identity import run_id
from gmt.records.record import RunRecord
from gmt.records.result import Result, TrainFacts
from gmt.tracking.beside import num_beside, span_of

DIRTY = "dirty"  # the state of a run whose code nobody can get again
UNSCORED = "without a score"  # and of one whose scores are no numbers
CHANGED = "changed"  # and of one whose record is not what it was when the run ended, or contradicts itself
_SCORES = ("target_before", "target_after", "source_before", "source_after")
_LOSSES = (  # where the task measures them
    *("source_perplexity_before", "source_perplexity_after", "target_nll_before", "target_nll_after"),
    *("source_nll_before", "source_nll_after", "target_kl", "source_kl"),
)
_SPAN = "span"  # of a row, until the runs beside it are counted
_NAMED = 5  # labels that a sentence names

# Column -> pandas dtype. Scores and fractions lie in [0, 1]; times are seconds; memory is bytes. A perplexity is the
# geometric mean over the texts that the task has; where it has none, it is missing. nll and kl are in nats a token of
# the right answers, means over the evaluations of a part; missing where the task has none. Times of a step's parts are
# means without num_cold_steps; records of before that number have none left out. train_s is the time in optimizer
# steps, run_s that of all attempts; the latter is missing where nobody saw an attempt end. num_trainable counts the
# parameters that the optimizer was given, num_trained the entries that a step trained, in the mean, and num_touched
# those that some step trained; missing where a record does not hold them. trained_fraction and touched_fraction are
# these two, and moved_fraction the entries that differ from the base's, as fractions of the parameters; delta_norm is
# the Euclidean norm of that difference, relative_delta_norm divided by the base's. runs_beside counts the other runs of
# the table that were at work on the same machine at some time of the run's last attempt.
# `axis` is the value of the study's axis; missing if the run does not have the setting. data_seed and question_seed are
# settings of the task; missing where the task does not have them, and question_seed where it follows from data_seed.
# `code` is a short hash of all code that made the run: the package's, that of plug-ins from outside, and the libraries'
# versions. `merge` is missing for a run that is trained; the columns on the training are missing for a merge, whose
# method is that of its parents; `seed` is missing for a merge over seeds.
COLUMNS: Mapping[str, str] = {
    "run_id": "string",
    "arm": "string",
    "label": "string",
    "model": "string",
    "task": "string",
    "method": "string",
    "merge": "string",
    "axis": "Float64",
    "data_seed": "Int64",
    "question_seed": "Int64",
    "seed": "Int64",
    "state": "string",
    "attempts": "Int64",
    "target_before": "Float64",
    "target_after": "Float64",
    "source_before": "Float64",
    "source_after": "Float64",
    "forgetting": "Float64",
    "source_perplexity_before": "Float64",
    "source_perplexity_after": "Float64",
    "target_nll_before": "Float64",
    "target_nll_after": "Float64",
    "source_nll_before": "Float64",
    "source_nll_after": "Float64",
    "target_kl": "Float64",
    "source_kl": "Float64",
    "density_asked": "Float64",
    "density": "Float64",
    "trained_fraction": "Float64",
    "moved_fraction": "Float64",
    "touched_fraction": "Float64",
    "delta_norm": "Float64",
    "relative_delta_norm": "Float64",
    "forward_backward_s": "Float64",
    "mask_s": "Float64",
    "optimizer_s": "Float64",
    "num_cold_steps": "Int64",
    "train_s": "Float64",
    "run_s": "Float64",
    "peak_memory_bytes": "Int64",
    "num_steps": "Int64",
    "num_tokens": "Int64",
    "num_parameters": "Int64",
    "num_trainable": "Int64",
    "num_trained": "Float64",
    "num_touched": "Int64",
    "optimizer_state_bytes": "Int64",
    "num_added": "Int64",
    "num_train_examples": "Int64",
    "num_dropped_examples": "Int64",
    "num_not_selected_examples": "Int64",
    "commit": "string",
    "dirty": "boolean",
    "code": "string",
    "hardware": "string",
    "runs_beside": "Int64",
    "error": "string",
}


def draws_of(config: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the seeds of a run's data and of its questions; None where the task has no such setting.

    Args:
        config: the run's resolved config.
    """
    return {name: config["task"].get(name) for name in ("data_seed", "question_seed")}


def result_columns(result: Result) -> dict[str, Any]:
    """A run's result under the table's names."""
    return {
        "target_before": result.before["target"]["mean"],
        "target_after": result.after["target"]["mean"],
        "source_before": result.before["source"]["mean"],
        "source_after": result.after["source"]["mean"],
        "forgetting": result.forgetting,
        "source_perplexity_before": _mean_metric(result, "before", "source", "perplexity", geometric_mean),
        "source_perplexity_after": _mean_metric(result, "after", "source", "perplexity", geometric_mean),
        **_of_right_answers(result),
        "density_asked": result.density_asked,
        "trained_fraction": result.trained_fraction,
        "moved_fraction": result.moved_fraction,
        "touched_fraction": result.touched_fraction,
        "delta_norm": result.delta_norm,
        "relative_delta_norm": result.relative_delta_norm,
        "run_s": result.seconds,
        **_training_columns(result.training),
        "num_parameters": result.num_parameters,
        "num_trainable": result.num_trainable,
        "num_added": result.num_added,
        "num_train_examples": result.num_train_examples,
        "num_dropped_examples": result.num_dropped_examples,
        "num_not_selected_examples": result.num_not_selected_examples,
    }


def _training_columns(training: TrainFacts | None) -> dict[str, Any]:
    """Return the columns on a run's training; none for a merge."""
    if training is None:
        return {}
    return {
        "density": training.density,
        "forward_backward_s": training.forward_backward_s,
        "mask_s": training.mask_s,
        "optimizer_s": training.optimizer_s,
        "num_cold_steps": training.num_cold_steps,
        "train_s": training.seconds,
        "peak_memory_bytes": training.peak_memory_bytes,
        "optimizer_state_bytes": training.optimizer_state_bytes,
        "num_trained": training.num_trained,
        "num_touched": training.num_touched,
        "num_steps": training.num_steps,
        "num_tokens": training.num_tokens,
    }


def final_metrics(result: Result) -> dict[str, float]:
    """The same as metrics for MLflow; what a method does not ask for is left out."""
    values = {f"result/{name}": value for name, value in result_columns(result).items() if value is not None}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def read_table(runs: Iterable[tuple[str, str, RunRecord]], *, axis: Axis, dirty: bool = False) -> pd.DataFrame:
    """Reads runs as a table with COLUMNS; what a run has not (yet) is missing there.

    Args:
        runs: arm, label and record of each.
        axis: the study's axis, whose values the column `axis` holds.
        dirty: whether a run of a checkout with uncommitted changes counts; otherwise its state is DIRTY, and what came
            out is missing. The same holds of a run whose scores are no finite numbers, which is UNSCORED, and of one
            that is CHANGED, whose `error` says what was changed.

    Raises:
        UserError: a run is there twice.
    """
    rows = [_row(arm, label, record, axis, dirty) for arm, label, record in runs]
    spans = [row.pop(_SPAN, None) for row in rows]
    for row, number in zip(rows, num_beside(spans), strict=True):
        row["runs_beside"] = number
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict(COLUMNS))
    if (twice := table["run_id"].duplicated()).any():
        id_ = table.loc[twice, "run_id"].iloc[0]
        labels = " and ".join(table.loc[table["run_id"] == id_, "label"])
        raise UserError(f"a run must stand in a table once, got {id_} as {labels}")
    return table


def left_out(table: pd.DataFrame) -> str:
    """Which runs of a table have no result, in words; empty if all have one."""
    without = table[table["state"] != "done"]
    if without.empty:
        return ""
    told = [f"{len(rows)} {state} ({_some(rows['label'].tolist())})" for state, rows in without.groupby("state")]
    return f"{len(without)} of {len(table)} runs are in no number here: {'; '.join(told)}"


def changes(table: pd.DataFrame) -> list[str]:
    """Return a sentence on each run of a table that is CHANGED."""
    rows = table[table["state"] == CHANGED]
    return [f"{label}: {error}." for label, error in zip(rows["label"], rows["error"], strict=True)]


def _some(labels: list[str]) -> str:
    more = len(labels) - _NAMED
    return "; ".join(labels[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _of_right_answers(result: Result) -> dict[str, float | None]:
    """Return the measures of gmt.evaluation.right_answers that the task takes."""
    losses = {
        f"{part}_nll_{when}": _mean_metric(result, when, part, "_nll", fmean)
        for part in ("target", "source")
        for when in ("before", "after")
    }
    return losses | {f"{part}_kl": _mean_metric(result, "after", part, "_kl", fmean) for part in ("target", "source")}


def _mean_metric(
    result: Result, when: str, part: str, ending: str, mean: Callable[[list[float]], float]
) -> float | None:
    """Return the mean of the metrics of a part whose names end like this; None if there are none."""
    measured = result.metrics[when].items()
    found = [v for k, v in measured if k.startswith(f"eval/{part}/") and k.endswith(ending)]
    return mean(found) if found else None


def _code(environment: Mapping[str, Any]) -> str | None:
    """A short hash, the same for runs that were made by the same code."""
    code = environment.get("code")
    return None if code is None else run_id(code)[:8]


def _hardware(environment: Mapping[str, Any]) -> str:
    if environment["device"] == "cuda":
        return ", ".join(environment["gpus"])
    return f"{environment['torch_threads']} thread of {environment['cpu']}"


def _row(arm: str, label: str, record: RunRecord, axis: Axis, dirty: bool) -> dict[str, Any]:
    state = record.state(also=("metrics.jsonl",))
    row: dict[str, Any] = {"run_id": record.id, "arm": arm, "label": label, "state": state}
    if not record.exists():
        return row
    stored, status = record.read("config.json"), record.status()
    science = stored["science"]
    row |= {
        "model": science["model"]["name"],
        "task": science["task"]["name"],
        "method": science["method"]["name"],
        "merge": (science.get("merge") or {}).get("name"),
        "axis": None if state == CHANGED else axis.value(stored["config"]),
        **draws_of(stored["config"]),
        "seed": seed_of(stored["config"]),
        "attempts": status.get("attempts"),
        "error": status.get("error"),
        _SPAN: span_of(status, is_running=state == "running"),
    }
    if state == CHANGED:
        return row | {"error": record.change(also=("metrics.jsonl",))}
    if state == "done":
        environment, result = record.read("environment.json"), record.result()
        if (change := contradiction_in(record, result)) is not None:
            return row | {"state": CHANGED, "error": record.changed_in_words(change)}
        found = result_columns(result)
        if environment["dirty"] and not dirty:
            row["state"] = DIRTY
        elif not all(math.isfinite(found[key]) for key in (*_SCORES, *_LOSSES) if found[key] is not None):
            row["state"] = UNSCORED
        else:
            row |= found
        row |= {"commit": environment["commit"], "dirty": environment["dirty"], "code": _code(environment)}
        row["hardware"] = _hardware(environment)
    return row
