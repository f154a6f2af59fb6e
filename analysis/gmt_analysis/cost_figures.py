"""Figures of the costs of arms: the parts of a step, and the target score against a cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gmt_analysis.choices import choice_name
from gmt_analysis.costs import PARTS
from gmt_analysis.dots import Panel, dot_plot
from gmt_analysis.figures import MOST_LINES, legend_outside
from gmt_analysis.names_beside import write_names
from gmt_analysis.rendering import hover
from gmt_analysis.statistics import mean_interval
from gmt_analysis.styles import COLOURS, arm_styles

_MASK = Panel(column="mask_s", title="mask, ms a step", factor=1000, low=0, digits=2)
_OPTIMIZER = Panel(column="optimizer_s", title="optimizer, ms a step", factor=1000, low=0, digits=2)
_FORWARD = Panel(column="forward_backward_s", title="forward and backward, ms a step", factor=1000, low=0)


def time_of_a_step(runs: pd.DataFrame, *, task: str, baseline: Sequence[str], is_shared: bool) -> Figure:
    """Return a figure of the milliseconds of a step's parts, a row for each choice, the quickest above.

    Args:
        runs: from `costs_of_runs`, with `label`.
        task: the task.
        baseline: the labels of the baseline.
        is_shared: whether runs shared their machine. The time of forward and backward is then left out: the work is the
            same for most choices, and its time depends more on the other runs than on the choice.
    """
    rows = runs[runs["task"] == task]
    panels = [_MASK, _OPTIMIZER] if is_shared else [_MASK, _OPTIMIZER, _FORWARD]
    total = rows.assign(total=sum(rows[panel.column] for panel in panels)).groupby("label")["total"].median()
    return dot_plot(rows, list(total.sort_values().index), panels, title=f"Time of a step: {task}", marked=baseline)


def score_against_cost(summary: pd.DataFrame, *, task: str, cost: str, label: str) -> Figure:
    """Return a figure of the target score against a cost, with the Pareto front.

    If there are more arms than colours, the choices on the front have their names beside them.

    Args:
        summary: `target_after` and the cost of each choice on all tasks, so that an arm looks the same on each.
        task: the task.
        cost: the column of the cost.
        label: the label of the x axis, with the unit.
    """
    styles = arm_styles(summary["arm"])
    is_many = len(styles) > MOST_LINES
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    rows = summary[(summary["task"] == task) & summary[cost].notna() & summary["target_after"].notna()]
    for arm, group in rows.groupby("arm", sort=False):
        (points,) = axis.plot(
            group[cost].astype(float),
            100 * group["target_after"].astype(float),
            linestyle="none",
            marker="o" if is_many else styles[str(arm)].marker,
            color="0.6" if is_many else styles[str(arm)].colour,
            label=None if is_many else str(arm),
        )
        hover(points, [_hover_text(row, cost) for row in group.to_dict("records")])
    front = rows[pareto_front(rows[cost].to_numpy(float), rows["target_after"].to_numpy(float))].sort_values(cost)
    axis.step(front[cost], 100 * front["target_after"], where="post", color="0.4", linewidth=1, label="Pareto front")
    if is_many:
        axis.plot(front[cost], 100 * front["target_after"], "o", color=COLOURS[0])
        axis.autoscale_view()
        write_names(
            axis,
            points=_coordinates(rows, cost),
            names=[choice_name(row["arm"], row["axis"]) for row in front.to_dict("records")],
            places=_coordinates(front, cost),
        )
    axis.set_title(f"Target score and cost: {task}", fontsize=11)
    axis.set_xlabel(label)
    axis.set_ylabel("target score after training, %")
    axis.grid(alpha=0.25)
    legend_outside(figure)
    return figure


def _coordinates(rows: pd.DataFrame, cost: str) -> list[tuple[float, float]]:
    return [(x, 100 * y) for x, y in rows[[cost, "target_after"]].to_numpy(float).tolist()]


def _hover_text(row: Mapping[Any, Any], cost: str) -> str:
    return f"{choice_name(row['arm'], row['axis'])}: {100 * row['target_after']:.1f} % for {row[cost]:.3g}"


def cost_against_size(table: pd.DataFrame) -> Figure:
    """Return a figure of a step's time, and of the mask's time as a share of the rest of the step, by model size.

    Both times of the share are from the same run, so that other work on the machine affects them alike.

    Args:
        table: the typed table of a study of several models.
    """
    done = table[table["state"] == "done"].assign(
        step_s=lambda rows: rows[list(PARTS)].sum(axis=1).astype(float),
        added=lambda rows: 100 * rows["mask_s"] / (rows["forward_backward_s"] + rows["optimizer_s"]),
        choice=lambda rows: [choice_name(arm, value) for arm, value in zip(rows["arm"], rows["axis"], strict=True)],
    )
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    times, shares = figure.subplots(1, 2)
    styles = arm_styles(done["choice"])
    for choice, group in done.groupby("choice", sort=False):
        look = styles[str(choice)]
        style: dict[str, Any] = {"marker": look.marker, "color": look.colour, "label": str(choice)}
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
    """Return whether each of N choices lies on the Pareto front, so that no other choice dominates it.

    A choice dominates another one if its cost is at most as high and its score at least as high, and one is better.
    """
    is_dominated = [
        bool(np.any((cost_N <= cost) & (score_N >= score) & ((cost_N < cost) | (score_N > score))))
        for cost, score in zip(cost_N, score_N, strict=True)
    ]
    return ~np.array(is_dominated, dtype=bool)
