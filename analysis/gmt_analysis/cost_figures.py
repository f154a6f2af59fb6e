"""Figures of what arms cost: the parts of a step, and the score that a cost buys."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gmt_analysis.choices import choice_name
from gmt_analysis.figures import COLOURS, MARKERS, legend_outside
from gmt_analysis.statistics import mean_interval

_PARTS: Mapping[str, str] = {
    "forward_backward_s": "forward and backward",
    "mask_s": "mask",
    "optimizer_s": "optimizer",
}


def time_of_a_step(summary: pd.DataFrame) -> Figure:
    """Milliseconds of a step's parts, a bar for each choice; means over the seeds.

    Args:
        summary: from `summarise`, with the parts' columns.
    """
    rows = [row for row in summary.to_dict("records") if not pd.isna(row["forward_backward_s"])]
    figure = Figure(figsize=(7.2, 1.4 + 0.28 * len(rows)), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(rows))
    for number, (column, name) in enumerate(_PARTS.items()):
        each = np.array([1000 * float(row[column]) for row in rows])
        axis.barh(range(len(rows)), each, left=left, color=COLOURS[number], label=name, height=0.7)
        left += each
    axis.set_yticks(range(len(rows)), [_choice(row) for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("ms a step, mean over steps and seeds")
    figure.legend(fontsize=9, frameon=False, loc="outside upper center", ncols=3)
    axis.grid(alpha=0.25, axis="x")
    return figure


def score_against_cost(summary: pd.DataFrame, *, cost: str, label: str) -> Figure:
    """Target score against a cost, a panel for each task, with the Pareto front: what nothing cheaper beats.

    Args:
        summary: from `summarise`, with `target_after` and the cost.
        cost: the column.
        label: of the x axis, with the unit.
    """
    tasks, arms = list(dict.fromkeys(summary["task"])), list(dict.fromkeys(summary["arm"]))
    figure = Figure(figsize=(5.6 * len(tasks), 4.2), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        own = summary[(summary["task"] == task) & summary[cost].notna() & summary["target_after"].notna()]
        for arm, group in own.groupby("arm", sort=False):
            number = arms.index(arm)
            axis.plot(
                group[cost].astype(float),
                100 * group["target_after"].astype(float),
                linestyle="none",
                marker=MARKERS[number % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                label=str(arm),
            )
        best = own[pareto_front(own[cost].to_numpy(float), own["target_after"].to_numpy(float))].sort_values(cost)
        axis.step(best[cost], 100 * best["target_after"], where="post", color="0.4", linewidth=1, label="Pareto front")
        axis.set_title(str(task), fontsize=11)
        axis.set_xlabel(label)
        axis.set_ylabel("target score after training, %")
        axis.grid(alpha=0.25)
    legend_outside(figure)
    return figure


def cost_against_size(table: pd.DataFrame) -> Figure:
    """A step's time against the number of parameters, and how much the mask adds to the rest of its own step.

    The share is of steps of one and the same run, so that what goes on beside it on the machine falls out.

    Args:
        table: the typed table of a study of several models.
    """
    done = table[table["state"] == "done"].assign(
        step_s=lambda rows: rows[list(_PARTS)].sum(axis=1).astype(float),
        added=lambda rows: 100 * rows["mask_s"] / (rows["forward_backward_s"] + rows["optimizer_s"]),
        choice=lambda rows: [choice_name(arm, value) for arm, value in zip(rows["arm"], rows["axis"], strict=True)],
    )
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    times, shares = figure.subplots(1, 2)
    for number, (choice, group) in enumerate(done.groupby("choice", sort=False)):
        style: dict[str, Any] = {
            "marker": MARKERS[number % len(MARKERS)],
            "color": COLOURS[number % len(COLOURS)],
            "label": str(choice),
        }
        by_size = group.groupby("num_parameters")
        sizes = by_size["num_parameters"].first().tolist()
        times.plot(sizes, 1000 * by_size["step_s"].mean(), **style)
        if not group["added"].any():
            continue  # no mask
        means = [mean_interval(rows["added"].tolist()) for _, rows in by_size]
        half_widths = [mean.high - mean.mean for mean in means]
        shares.errorbar(sizes, [mean.mean for mean in means], yerr=half_widths, capsize=3, **style)
    times.set(xscale="log", yscale="log", xlabel="parameters of the model", ylabel="ms a step, mean over seeds")
    shares.set(xscale="log", xlabel="parameters of the model", ylabel="time of the mask, % of the rest of the step")
    shares.set_ylim(bottom=0)
    for axis in (times, shares):
        axis.grid(alpha=0.25)
    legend_outside(figure)
    return figure


def pareto_front(cost_N: np.ndarray, score_N: np.ndarray) -> np.ndarray:
    """Which of N choices no other beats: at most as dear and at least as good, and better in one of them."""
    beaten = [
        bool(np.any((cost_N <= cost) & (score_N >= score) & ((cost_N < cost) | (score_N > score))))
        for cost, score in zip(cost_N, score_N, strict=True)
    ]
    return ~np.array(beaten, dtype=bool)


def _choice(row: Mapping[Any, Any]) -> str:
    return f"{choice_name(row['arm'], row['axis'])}, {row['task']}"
