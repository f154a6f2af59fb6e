"""Figures of the effect of masks: energy, overlap and movement, over steps and layers; and a sentence on density."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmt.axis import Axis
from gmt_analysis.choices import choice_name
from gmt_analysis.dots import Panel, dot_plot

MOST_COLUMNS = 5  # arms side by side; more are rows
FACTS: Mapping[str, str] = {
    "mask/energy_kept": "gradient energy kept",
    "mask/overlap": "overlap with the mask before (Jaccard)",
    "mask/moved_fraction": "entries that moved at the step",
}


def density_in_words(table: pd.DataFrame) -> str | None:
    """Return a sentence on the largest distance between the realised and the target density; None if no run masked.

    Args:
        table: the typed table of a study.
    """
    done = table[(table["state"] == "done") & (table["target_density"] < 1) & table["density"].notna()]
    if done.empty:
        return None
    distance = (done["density"] - done["target_density"]).abs().astype(float)
    farthest = done.iloc[int(distance.to_numpy().argmax())]
    return (
        "Realised density, the mean over a run's steps, differs from the target density (1 - mask ratio) by at most "
        f"{distance.max():.2g}: {choice_name(farthest['arm'], farthest['axis'])} has {farthest['density']:.4g} for "
        f"{farthest['target_density']:.4g}."
    )


def facts_by_choice(series: pd.DataFrame, *, task: str) -> Figure | None:
    """Return a figure of FACTS at the last step with a measurement, a row for each choice; None if none was logged.

    Args:
        series: as `facts_over_steps`, with the `label` of each choice.
        task: the drawn task.
    """
    facts = _last_steps(series[series["layer"].isna() & series["name"].isin(FACTS) & (series["task"] == task)])
    if facts.empty:
        return None
    runs = facts.pivot_table(index=["label", "run_id"], columns="name", values="value", sort=False).reset_index()
    panels = [Panel(column=name, title=title, low=0, high=1, digits=3) for name, title in FACTS.items() if name in runs]
    return dot_plot(runs, list(dict.fromkeys(runs["label"])), panels, title=f"Masks at the last measurement: {task}")


def layers_by_choice(series: pd.DataFrame, *, task: str) -> Figure | None:
    """Return heat maps of FACTS at the last measurement, with a row for each choice and a column for each layer.

    The arguments and None are as in `facts_by_choice`.
    """
    facts = _last_steps(series[series["layer"].notna() & series["name"].isin(FACTS) & (series["task"] == task)])
    if facts.empty:
        return None
    labels, layers = (list(dict.fromkeys(facts[column])) for column in ("label", "layer"))
    figure = Figure(figsize=(3.2 * len(FACTS) + 1.6, 1.6 + 0.19 * len(labels)), layout="constrained")
    axes = figure.subplots(1, len(FACTS), sharey=True)
    for axis, (name, title) in zip(axes, FACTS.items(), strict=True):
        means = facts[facts["name"] == name].pivot_table(index="label", columns="layer", values="value")
        shown = means.reindex(index=labels, columns=layers).to_numpy(float)
        picture = axis.imshow(np.ma.masked_invalid(shown), aspect="auto", cmap="viridis", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(len(layers)), [_short(layer) for layer in layers], rotation=60, ha="right", fontsize=7)
    axes[0].set_yticks(range(len(labels)), labels, fontsize=8)
    figure.colorbar(picture, ax=list(axes), shrink=0.6)
    figure.suptitle(f"Masks by layer: {task}", fontsize=11)
    return figure


def facts_over_steps(series: pd.DataFrame, *, task: str, along: Axis) -> Figure | None:
    """Return a figure of FACTS of the whole model over the steps.

    It has a row for each fact, a column for each arm, and a line for each value of the axis: the mean over seeds.

    Args:
        series: from gmt.tracking.series.read_series.
        task: the drawn task.
        along: the study's axis.

    Returns:
        The figure; None if no fact was logged.
    """
    return _grid(series[series["layer"].isna()], task, along, "step", "optimizer step")


def facts_by_layer(series: pd.DataFrame, *, task: str, along: Axis) -> Figure | None:
    """Return a figure of FACTS over the layers at the last measurement, in the form of `facts_over_steps`."""
    facts = series[series["layer"].notna() & (series["task"] == task)]
    if facts.empty:
        return None
    last = _last_steps(facts)
    order = {layer: number for number, layer in enumerate(dict.fromkeys(last["layer"]))}
    figure = _grid(last.assign(place=last["layer"].map(order)), task, along, "place", "")
    if figure is not None:
        for axis in figure.axes:
            axis.set_xticks(range(len(order)), [_short(layer) for layer in order], rotation=60, fontsize=7)
    return figure


def _last_steps(series: pd.DataFrame) -> pd.DataFrame:
    """Return the values of each run's last step."""
    return series[series["step"] == series.groupby("run_id")["step"].transform("max")]


def _grid(series: pd.DataFrame, task: str, along: Axis, across: str, label: str) -> Figure | None:
    facts = series[(series["task"] == task) & series["name"].isin(FACTS)]
    arms = list(dict.fromkeys(facts["arm"]))
    if not arms:
        return None
    figure = Figure(figsize=(3.6 * len(arms) + 1.2, 2.5 * len(FACTS)), layout="constrained")
    axes = figure.subplots(len(FACTS), len(arms), squeeze=False, sharex=True, sharey="row")
    values = sorted(facts["axis"].dropna().unique())
    for row, (name, title) in zip(axes, FACTS.items(), strict=True):
        for axis, arm in zip(row, arms, strict=True):
            lines_by_value(axis, facts[(facts["name"] == name) & (facts["arm"] == arm)], across, values)
            axis.grid(alpha=0.25)
        row[0].set_ylabel(title, fontsize=8)
    for top, bottom, arm in zip(axes[0], axes[-1], arms, strict=True):
        top.set_title(f"{arm}, {task}", fontsize=10)
        bottom.set_xlabel(label)
    legend_of_values(figure, along)
    return figure


def legend_of_values(figure: Figure, along: Axis) -> None:
    """Draw one legend for the lines of `lines_by_value` on all axes, at the right."""
    lines = {label: line for axis in figure.axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(lines.values()), list(lines), title=along.name, loc="outside right upper", frameon=False, fontsize=8
    )


def lines_by_value(axis: Axes, rows: pd.DataFrame, across: str, values: Sequence[float]) -> None:
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
