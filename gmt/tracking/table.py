"""Reads a study from its run records as a tidy table: a row for each run, with declared types. Imports no MLflow."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from gmt.axis import Axis, draws_of, seed_of
from gmt.errors import UserError
from gmt.listed import some
from gmt.records.identity import run_id
from gmt.records.record import RunRecord
from gmt.tracking.beside import num_beside, span_of
from gmt.tracking.outcomes import CHANGED, DIRTY, outcome_of
from gmt.tracking.question_steps import question_steps

_SPAN = "span"  # a temporary column: the machine and the times of the last attempt
_STATE_WORDS = {DIRTY: "made in a checkout with uncommitted changes, which --dirty counts"}

# Column -> pandas dtype. Scores and fractions lie in [0, 1]; times are seconds; memory is bytes. A perplexity is the
# geometric mean over the task's texts; missing without texts. nll and kl are in nats per token of the right answers,
# means over the evaluations of a part; missing if the task has none. Times of a step's parts are means without the
# num_cold_steps first steps; older records, which lack that number, averaged over all steps. train_s is the time in
# optimizer steps, run_s the time of all attempts; the latter is missing if the end of an attempt is unknown.
# num_trainable counts the optimizer's parameters, num_trained the entries that a step trained, in the mean, and
# num_touched the entries that some step trained; missing if a record lacks them. trained_fraction, touched_fraction and
# moved_fraction (the entries that differ from the base's) are fractions of the parameters; delta_norm is the Euclidean
# norm of the difference from the base, relative_delta_norm the same divided by the base's norm. runs_beside counts the
# other runs of the table that ran on the same machine at some time during the run's last attempt.
# `axis` is the value of the study's axis; missing if the run does not have the setting. data_seed and question_seed are
# settings of the task; missing if the task lacks them, and question_seed if it follows from data_seed. target_step and
# source_step are the change of a score by one question of the part's smallest suite; missing if the settings do not say
# how many questions a suite has. `code` is a short hash of all code that made the run: this package, plug-ins from
# other packages, and the versions of libraries. `merge` is missing for a run that trains; the columns on the training
# are missing for a merge, whose method is its parents'; `seed` is missing for a merge over seeds.
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
    "target_step": "Float64",
    "source_step": "Float64",
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
    "target_density": "Float64",
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


def read_table(runs: Iterable[tuple[str, str, RunRecord]], *, axis: Axis, dirty: bool = False) -> pd.DataFrame:
    """Return runs as a table with COLUMNS; values that a run does not have are missing.

    Args:
        runs: arm, label and record of each run.
        axis: the study's axis, whose values are in the column `axis`.
        dirty: whether a run from a checkout with uncommitted changes counts. States are those of
            gmt.tracking.outcomes.outcome_of: a run that is DIRTY, UNSCORED or CHANGED has no result here, and `error`
            says what has changed.

    Raises:
        UserError: a run occurs twice.
    """
    rows = [_row(arm, label, record, axis, dirty) for arm, label, record in runs]
    spans = [row.pop(_SPAN, None) for row in rows]
    for row, number in zip(rows, num_beside(spans), strict=True):
        row["runs_beside"] = number
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict(COLUMNS))
    if (is_repeated := table["run_id"].duplicated()).any():
        id_ = table.loc[is_repeated, "run_id"].iloc[0]
        labels = " and ".join(table.loc[table["run_id"] == id_, "label"])
        raise UserError(f"a run must occur only once in a table, got {id_} as {labels}")
    return table


def left_out(table: pd.DataFrame) -> list[str]:
    """Return a list with a sentence on a table's runs without a result; an empty list if all runs have one."""
    rows_left_out = table[table["state"] != "done"]
    if rows_left_out.empty:
        return []
    states = [
        f"{len(rows)} {_STATE_WORDS.get(str(state), state)} ({some(rows['label'].tolist(), '; ')})"
        for state, rows in rows_left_out.groupby("state")
    ]
    return [f"{len(rows_left_out)} of {len(table)} runs are left out of all numbers here: {'; '.join(states)}."]


def changes(table: pd.DataFrame) -> list[str]:
    """Return a sentence on each run of a table that is CHANGED."""
    rows = table[table["state"] == CHANGED]
    return [f"{label}: {error}." for label, error in zip(rows["label"], rows["error"], strict=True)]


def _code(environment: Mapping[str, Any]) -> str | None:
    """Return a short hash, which is the same for runs that the same code made."""
    code = environment.get("code")
    return None if code is None else run_id(code)[:8]


def _hardware(environment: Mapping[str, Any]) -> str:
    if environment["device"] == "cuda":
        return ", ".join(environment["gpus"])
    threads = environment["torch_threads"]
    return f"{threads} thread{'s' if threads > 1 else ''} of {environment['cpu']}"


def _row(arm: str, label: str, record: RunRecord, axis: Axis, dirty: bool) -> dict[str, Any]:
    outcome = outcome_of(record, dirty=dirty)
    row: dict[str, Any] = {"run_id": record.id, "arm": arm, "label": label, "state": outcome.state}
    if not record.exists():
        return row
    stored, status = record.read("config.json"), record.status()
    science = stored["science"]
    row |= {
        "model": science["model"]["name"],
        "task": science["task"]["name"],
        "method": science["method"]["name"],
        "merge": (science.get("merge") or {}).get("name"),
        "axis": None if outcome.state == CHANGED else axis.value(stored["config"]),
        **draws_of(stored["config"]),
        **question_steps(stored["config"]),
        "seed": seed_of(stored["config"]),
        "attempts": status.get("attempts"),
        "error": outcome.change or status.get("error"),
        _SPAN: span_of(status, is_running=outcome.state == "running"),
        **outcome.columns,
    }
    if environment := outcome.environment:
        row |= {"commit": environment["commit"], "dirty": environment["dirty"], "code": _code(environment)}
        row["hardware"] = _hardware(environment)
    return row
