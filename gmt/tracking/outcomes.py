"""The outcome of a run, and its result under the names of the table's columns; without pandas and MLflow.

Reports, plans and the stop rule read runs by `outcome_of`, so that the same runs count in all of them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, geometric_mean
from typing import Any

from gmt.records.derived import contradiction_in
from gmt.records.record import RunRecord
from gmt.records.result import Result, TrainFacts

# States of runs that are done but do not count:
DIRTY = "dirty"  # the run's code had uncommitted changes, so that nobody can repeat the run
UNSCORED = "without a score"  # a score of the run is NaN or Inf
CHANGED = "changed"  # the run's record has changed since the run ended, or contradicts itself
_SCORES = ("target_before", "target_after", "source_before", "source_after")
_LOSSES = (  # missing if the task does not measure them
    *("source_perplexity_before", "source_perplexity_after", "target_nll_before", "target_nll_after"),
    *("source_nll_before", "source_nll_after", "target_kl", "source_kl"),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a run.

    Args:
        state: the state of the record, or DIRTY, UNSCORED or CHANGED.
        columns: the result's columns; empty for a run that does not count.
        environment: the content of environment.json; empty for a run that is not finished, or CHANGED.
        change: a sentence on the change; None for a run that is not CHANGED.
    """

    state: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    change: str | None = None


def outcome_of(record: RunRecord, *, dirty: bool = False) -> Outcome:
    """Return the outcome of a run.

    Args:
        record: the run's record.
        dirty: whether a run from a checkout with uncommitted changes counts.
    """
    state = record.state(also=("metrics.jsonl",))
    if state == CHANGED:
        return Outcome(state=CHANGED, change=record.change(also=("metrics.jsonl",)))
    if state != "done":
        return Outcome(state=state)
    environment, result = record.read("environment.json"), record.result()
    if (change := contradiction_in(record, result)) is not None:
        return Outcome(state=CHANGED, change=record.changed_in_words(change))
    if environment["dirty"] and not dirty:
        return Outcome(state=DIRTY, environment=environment)
    columns = result_columns(result)
    if not all(math.isfinite(columns[key]) for key in (*_SCORES, *_LOSSES) if columns[key] is not None):
        return Outcome(state=UNSCORED, environment=environment)
    return Outcome(state=state, columns=columns, environment=environment)


def result_columns(result: Result) -> dict[str, Any]:
    """Return a run's result by the names of the table's columns."""
    return {
        "target_before": result.before["target"]["mean"],
        "target_after": result.after["target"]["mean"],
        "source_before": result.before["source"]["mean"],
        "source_after": result.after["source"]["mean"],
        "forgetting": result.forgetting,
        "source_perplexity_before": _mean_metric(result, "before", "source", "perplexity", geometric_mean),
        "source_perplexity_after": _mean_metric(result, "after", "source", "perplexity", geometric_mean),
        **_right_answer_columns(result),
        "target_density": result.target_density,
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
    """Return the result's columns as metrics for MLflow, without missing values."""
    values = {f"result/{name}": value for name, value in result_columns(result).items() if value is not None}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def _right_answer_columns(result: Result) -> dict[str, float | None]:
    """Return the measures of gmt.evaluation.right_answers; None for those that the task does not take."""
    losses = {
        f"{part}_nll_{when}": _mean_metric(result, when, part, "_nll", fmean)
        for part in ("target", "source")
        for when in ("before", "after")
    }
    return losses | {f"{part}_kl": _mean_metric(result, "after", part, "_kl", fmean) for part in ("target", "source")}


def _mean_metric(
    result: Result, when: str, part: str, ending: str, mean: Callable[[list[float]], float]
) -> float | None:
    """Return the mean of a part's metrics whose names have an ending; None if there are none."""
    measured = result.metrics[when].items()
    values = [v for k, v in measured if k.startswith(f"eval/{part}/") and k.endswith(ending)]
    return mean(values) if values else None
