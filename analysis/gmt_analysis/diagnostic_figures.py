"""The default figure of a diagnostic: its form follows from its rows, so that a new diagnostic needs no figure code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gmt_analysis.figures import legend_outside
from gmt_analysis.statistics import mean_interval
from gmt_analysis.styles import COLOURS, MARKERS

_PANEL = (4.8, 3.8)  # inches
_ROW_IN = 0.17  # the height of a label beside a point
_COLUMNS = 2


def figure_of(rows: pd.DataFrame, shown: Mapping[str, Any]) -> Figure | None:
    """Return a figure with a panel for each value that the rows hold.

    Args:
        rows: long form, see gmt_analysis.diagnoses; `label` and `other_label` name the choices of the runs.
        shown: title and panels, see gmt.diagnostics.protocol.Shown.

    Returns:
        A figure whose panels have lines over layers if their value has layers, a matrix of choices if it is of pairs of
        runs, and points with 95 % intervals otherwise. None if no row has a value of the panels.
    """
    panels = {name: label for name, label in shown["panels"].items() if len(rows) and (rows["name"] == name).any()}
    if not panels:
        return None
    num_columns = min(len(panels), _COLUMNS)
    num_lines = -(-len(panels) // num_columns)
    labels = list(dict.fromkeys([*rows["label"], *rows["other_label"].dropna()]))
    has_points = (rows["layer"].isna() & rows["other_label"].isna()).any()
    height_in = max(_PANEL[1], _ROW_IN * len(labels)) if has_points else _PANEL[1]
    figure = Figure(figsize=(_PANEL[0] * num_columns, height_in * num_lines + 0.6), layout="constrained")
    axes = figure.subplots(num_lines, num_columns, squeeze=False).flatten()
    for axis, (name, text) in zip(axes, panels.items(), strict=False):
        values = rows[rows["name"] == name]
        if values["other_label"].notna().any():
            _matrix(axis, values, labels)
        elif values["layer"].notna().any():
            _over_layers(axis, values[values["layer"].notna()], labels)
        else:
            _points(axis, values, labels)
        axis.set_title(text, fontsize=9)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    legend_outside(figure, "outside lower center")  # the title is above
    figure.suptitle(str(shown["title"]), fontsize=11)
    return figure


def _over_layers(axis: Axes, rows: pd.DataFrame, labels: Sequence[str]) -> None:
    for number, label in enumerate(labels):
        of_choice = rows[rows["label"] == label]
        if of_choice.empty:
            continue
        means = of_choice.groupby("layer")["value"].mean()
        axis.plot(
            means.index.astype(int),
            means.astype(float),
            marker=MARKERS[number % len(MARKERS)],
            color=_colour(number, len(labels)),
            markersize=4,
            label=label,
        )
    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if (means := rows["value"]).min() >= 0:
        axis.set_ylim(0, axis.get_ylim()[1] if means.max() else 1)
    axis.grid(alpha=0.25)


def _points(axis: Axes, rows: pd.DataFrame, labels: Sequence[str]) -> None:
    by_label = {label: group.groupby("run_id")["value"].mean().tolist() for label, group in rows.groupby("label")}
    shown = [label for label in labels if label in by_label]
    for place, label in enumerate(shown):
        mean = mean_interval(by_label[label])
        error = None if mean.n == 1 else mean.high - mean.mean
        colour = _colour(labels.index(label), len(labels))
        axis.errorbar(mean.mean, place, xerr=error, color=colour, marker="o", capsize=3)
    axis.set_yticks(range(len(shown)), shown, fontsize=8)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.grid(alpha=0.25, axis="x")


def _matrix(axis: Axes, rows: pd.DataFrame, order: Sequence[str]) -> None:
    """Draw the means over pairs of runs; the diagonal holds the pairs of seeds of one choice."""
    pairs = rows.groupby(["label", "other_label"])["value"].mean()
    present = {*rows["label"], *rows["other_label"]}
    labels = [label for label in order if label in present]
    means = np.full((len(labels), len(labels)), np.nan)
    for i, one in enumerate(labels):
        for j, other in enumerate(labels):
            values = [pairs[key] for key in ((one, other), (other, one)) if key in pairs.index]
            if values:
                means[i, j] = float(np.mean(values))
    axis.imshow(means, vmin=0, vmax=1, cmap="viridis")
    for i, j in np.argwhere(~np.isnan(means)):
        axis.text(j, i, f"{means[i, j]:.2f}", ha="center", va="center", fontsize=7, color=_text_colour(means[i, j]))
    axis.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(labels)), labels, fontsize=7)


def _text_colour(value: float) -> str:
    return "black" if value > 0.6 else "white"


def _colour(number: int, num_colours: int) -> Any:
    return COLOURS[number] if num_colours <= len(COLOURS) else matplotlib.colormaps["viridis"](number / num_colours)
