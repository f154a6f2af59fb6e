"""Figures of what masks did: density, energy, overlap, movement, over steps and layers."""

from collections.abc import Mapping, Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmt.axis import Axis
from gmt_analysis.figures import COLOURS, MARKERS

FACTS: Mapping[str, str] = {
    "mask/energy_kept": "gradient energy kept",
    "mask/overlap": "overlap with the mask before (Jaccard)",
    "mask/moved_fraction": "entries that moved at the step",
}


def density_against_asked(table: pd.DataFrame) -> Figure:
    """Realised against asked density, a point for each finished run.

    Args:
        table: the typed table of a study.
    """
    done = table[(table["state"] == "done") & table["density_asked"].notna() & table["density"].notna()]
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="as asked")
    for number, (arm, group) in enumerate(done.groupby("arm", sort=False)):
        axis.plot(
            group["density_asked"].astype(float),
            group["density"].astype(float),
            linestyle="none",
            marker=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            markersize=5,
            alpha=0.7,
            label=str(arm),
        )
    axis.set_xlabel("density asked (1 - mask ratio)")
    axis.set_ylabel("density realised, mean over steps")
    _finish(axis)
    return figure


def facts_over_steps(series: pd.DataFrame, *, task: str, along: Axis) -> Figure | None:
    """FACTS of the whole model over the steps: a row for each fact, a column for each arm, a line for each value.

    Args:
        series: from gmt.tracking.series.read_series; lines are means over seeds.
        task: which one is drawn.
        along: the study's axis; each of its values is a line.

    Returns:
        None where nothing was logged.
    """
    return _grid(series[series["layer"].isna()], task, along, "step", "optimizer step")


def facts_by_layer(series: pd.DataFrame, *, task: str, along: Axis) -> Figure | None:
    """FACTS of each layer at the last step that they were logged at; as `facts_over_steps`."""
    own = series[series["layer"].notna() & (series["task"] == task)]
    if own.empty:
        return None
    last = own[own["step"] == own.groupby("run_id")["step"].transform("max")]
    order = {layer: number for number, layer in enumerate(dict.fromkeys(last["layer"]))}
    figure = _grid(last.assign(place=last["layer"].map(order)), task, along, "place", "")
    if figure is not None:
        for axis in figure.axes:
            axis.set_xticks(range(len(order)), [_short(layer) for layer in order], rotation=60, fontsize=7)
    return figure


def _grid(series: pd.DataFrame, task: str, along: Axis, across: str, label: str) -> Figure | None:
    own = series[(series["task"] == task) & series["name"].isin(FACTS)]
    arms = list(dict.fromkeys(own["arm"]))
    if not arms:
        return None
    figure = Figure(figsize=(3.6 * len(arms) + 1.2, 2.5 * len(FACTS)), layout="constrained")
    axes = figure.subplots(len(FACTS), len(arms), squeeze=False, sharex=True, sharey="row")
    values = sorted(own["axis"].dropna().unique())
    for row, (name, title) in zip(axes, FACTS.items(), strict=True):
        for axis, arm in zip(row, arms, strict=True):
            _lines(axis, own[(own["name"] == name) & (own["arm"] == arm)], across, values)
            axis.grid(alpha=0.25)
        row[0].set_ylabel(title, fontsize=8)
    for top, bottom, arm in zip(axes[0], axes[-1], arms, strict=True):
        top.set_title(f"{arm}, {task}", fontsize=10)
        bottom.set_xlabel(label)
    shown = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(shown.values()), list(shown), title=along.name, loc="outside right upper", frameon=False, fontsize=8
    )
    return figure


def _lines(axis: Axes, rows: pd.DataFrame, across: str, values: Sequence[float]) -> None:
    """Draw a line for each value of the study's axis that an arm has; one for an arm without the axis."""
    colours = matplotlib.colormaps["viridis"]
    for number, value in enumerate(values):
        means = rows[rows["axis"] == value].groupby(across)["value"].mean().astype(float)
        axis.plot(means.index, means, color=colours(number / max(len(values) - 1, 1) * 0.9), label=f"{value:g}")
    constant = rows[rows["axis"].isna()].groupby(across)["value"].mean().astype(float)
    if len(constant):
        axis.plot(constant.index, constant, color="0.4", linestyle="--", label="none")


def _short(layer: str) -> str:
    return layer.removeprefix("model.").removesuffix(".weight").replace("layers.", "layer ")


def _finish(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9, frameon=False)
