"""Dot plots with a row for each choice, which stay readable for two arms as for fifty."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmt_analysis.choices import FEW_SEEDS
from gmt_analysis.rendering import hover
from gmt_analysis.statistics import mean_interval
from gmt_analysis.styles import COLOURS

_ROW_IN, _FRAME_IN = 0.19, 1.0  # inches
_PANEL_IN, _LETTER_IN = 3.0, 0.062
_TITLE = 40  # letters of a line of a panel's title
_LONGEST = 46  # letters of a label; the middle of a longer one is left out
_ROOM = 0.04  # of the span of the shown values
_TALL = 20  # rows: with at least as many, an axis has its numbers above the panel too


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A column of a dot plot.

    Args:
        column: the column of the values.
        title: the name of the column, with its unit.
        factor: the shown number divided by the value.
        low, high: the smallest and the largest possible number, in the shown unit; None: no bound.
        digits: the decimals of the numbers that hovering over a point shows.
    """

    column: str
    title: str
    factor: float = 1
    low: float | None = None
    high: float | None = None
    digits: int = 1


def dot_plot(
    values: pd.DataFrame, labels: Sequence[str], panels: Sequence[Panel], *, title: str, marked: Sequence[str] = ()
) -> Figure:
    """Return a figure with a row for each label and a panel for each column: means, with seeds or intervals.

    A label with fewer than FEW_SEEDS values has a small point for each; any other has a 95 % t interval, cut off at the
    bounds of the panel.

    Args:
        values: a row for each run, with `label` and the panels' columns; a missing value leaves a gap.
        labels: the rows of the figure, from top to bottom.
        panels: the columns of the figure.
        title: the title of the figure.
        marked: the labels that the others are compared with, in bold letters and with a line at their mean.
    """
    width = _PANEL_IN * len(panels) + _LETTER_IN * max(len(_short(label)) for label in labels) + 0.2
    figure = Figure(figsize=(width, _FRAME_IN + _ROW_IN * len(labels)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    by_label = dict(list(values.groupby("label", sort=False)))
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, {label: _shown(by_label.get(label, values.iloc[:0]), panel) for label in labels}, panel, marked)
    axes[0].set_yticks(range(len(labels)), [_short(label) for label in labels], fontsize=8)
    for tick, label in zip(axes[0].get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if label in marked else "normal")
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    figure.suptitle(title, fontsize=11)
    return figure


def _shown(rows: pd.DataFrame, panel: Panel) -> list[float]:
    return [panel.factor * float(value) for value in rows[panel.column].dropna()]


def _draw(axis: Axes, shown: Mapping[str, list[float]], panel: Panel, marked: Sequence[str]) -> None:
    places = {label: number for number, label in enumerate(shown)}
    intervals = {label: mean_interval(values) for label, values in shown.items() if values}
    ends: list[float] = []
    for is_marked, colour in ((False, COLOURS[0]), (True, "black")):
        drawn = {label: mean for label, mean in intervals.items() if (label in marked) is is_marked}
        for label, mean in drawn.items():
            ends += [mean.mean]
            if is_marked:
                axis.axvline(mean.mean, color="0.55", linewidth=0.8, linestyle="--", zorder=0)
            if mean.n < FEW_SEEDS:
                continue
            low, high = np.clip((mean.low, mean.high), panel.low, panel.high)
            ends += [float(low), float(high)]
            axis.plot([low, high], [places[label]] * 2, color=colour, linewidth=1.2, alpha=0.8)
        few = [(value, places[label]) for label, mean in drawn.items() if mean.n < FEW_SEEDS for value in shown[label]]
        if few:
            axis.plot(*zip(*few, strict=True), ".", color=colour, alpha=0.45, markersize=5)
            ends += [value for value, _ in few]
        if drawn:
            means = [mean.mean for mean in drawn.values()]
            (points,) = axis.plot(means, [places[label] for label in drawn], "o", color=colour, markersize=5)
            hover(points, [_in_words(label, mean.mean, shown[label], panel) for label, mean in drawn.items()])
    axis.set_title(textwrap.fill(panel.title, _TITLE), fontsize=8)
    axis.grid(alpha=0.25)
    axis.tick_params(axis="x", labelsize=8, labeltop=len(shown) >= _TALL)
    axis.tick_params(axis="y", length=0)
    if ends:
        axis.set_xlim(*_limits(ends, panel))


def _limits(ends: Sequence[float], panel: Panel) -> tuple[float, float]:
    low, high = min(ends), max(ends)
    room = _ROOM * (high - low) or 0.02 * abs(high) or 1
    least = -np.inf if panel.low is None else panel.low - room
    most = np.inf if panel.high is None else panel.high + room
    return max(low - room, least), min(high + room, most)


def _in_words(label: str, mean: float, values: Sequence[float], panel: Panel) -> str:
    every = f" ({', '.join(f'{value:.{panel.digits}f}' for value in values)})" if len(values) > 1 else ""
    return f"{label}: {mean:.{panel.digits}f}{every}"


def _short(label: str) -> str:
    half = _LONGEST // 2
    return label if len(label) <= _LONGEST else f"{label[: half - 1]} … {label[1 - half :]}"
