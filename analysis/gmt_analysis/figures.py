"""Figures of a score along a study's axis: arms that have the axis as lines, the others as bands."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import pandas as pd

matplotlib.use("Agg")  # no window system is needed

from matplotlib.axes import Axes  # pyplot's backend must be set first
from matplotlib.figure import Figure
from PIL import Image

from gmt.axis import Axis

# Okabe and Ito's colours, told apart by colour-blind readers and in grey print with the markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
_MOST_COLUMNS = 5  # of a legend
_HANDLE_IN, _LETTER_IN = 0.6, 0.07  # widths in a legend of 9 points
_DODGE = 0.01  # of the axis's span: the distance between arms, so that no interval hides another
_BAND_STYLES = ("--", ":", "-.")


def score_along(summary: pd.DataFrame, column: str, *, along: Axis, title: str, unit: str) -> Figure:
    """Return a figure of a score along the axis, a panel for each task.

    Args:
        summary: from `summarise`, with `column` and its bounds.
        column: the score, a fraction; shown in per cent.
        along: the study's axis.
        title: of the figure.
        unit: the label of the y axis.
    """
    tasks, arms = list(dict.fromkeys(summary["task"])), list(dict.fromkeys(summary["arm"]))
    values = sorted(summary["axis"].dropna().astype(float).unique())
    figure = Figure(figsize=(6.4 * len(tasks), 4.2), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        _draw(axis, summary[summary["task"] == task], column, arms, _Places(values, along.is_logarithmic(values)))
        axis.set_title(f"{title}: {task}", fontsize=11)
        axis.set_xlabel(along.label)
        axis.set_ylabel(unit)
        axis.grid(alpha=0.25)
    legend_outside(figure)
    return figure


def legend_outside(
    figure: Figure, place: Literal["outside upper center", "outside lower center"] = "outside upper center"
) -> None:
    """Draw one legend for all axes outside of them, each label once; none without a label.

    Args:
        figure: a label must look the same on all axes.
        place: the edge of the figure, as matplotlib calls it.
    """
    handles = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if not handles:
        return
    figure.legend(
        list(handles.values()),
        list(handles),
        fontsize=9,
        frameon=False,
        loc=place,
        ncols=max(1, min(len(handles), _MOST_COLUMNS, int(figure.get_figwidth() / _width_in(handles)))),
    )


def _width_in(labels: Iterable[str]) -> float:
    """Return the width in inches of a column of the legend with these labels."""
    return _HANDLE_IN + _LETTER_IN * max(map(len, labels))


@dataclass(frozen=True)
class _Places:
    """The x positions of the axis's values, with the arms side by side.

    Args:
        values: the values of all arms, sorted.
        is_logarithmic: whether the figure has a logarithmic scale.
    """

    values: Sequence[float]
    is_logarithmic: bool

    def shifted(self, values: pd.Series, offset: float) -> pd.Series:
        """Return values shifted by `offset` times _DODGE of the span."""
        low, high = self.values[0], self.values[-1]
        if self.is_logarithmic:
            factor: float = (high / low) ** (_DODGE * offset)
            return values * factor
        return values + _DODGE * ((high - low) or abs(high) or 1) * offset

    def scale(self, axis: Axes) -> None:
        """Set the scale of the x axis, and its ticks where it is logarithmic."""
        if self.is_logarithmic:
            axis.set_xscale("log")
            axis.set_xticks(self.values, [f"{value:g}" for value in self.values])
            axis.minorticks_off()


def _draw(axis: Axes, rows: pd.DataFrame, column: str, arms: Sequence[str], places: _Places) -> None:
    bands = [arm for arm in arms if rows[rows["arm"] == arm]["axis"].isna().all()]
    places.scale(axis)
    for number, arm in enumerate(arms):
        own = rows[rows["arm"] == arm].sort_values("axis")
        if own.empty:
            continue
        mean, low, high = (100 * own[c].astype(float) for c in (column, f"{column}_low", f"{column}_high"))
        label = f"{arm} (n = {_seeds(own)})"
        colour = COLOURS[number % len(COLOURS)]
        if arm in bands:
            axis.axhline(mean.iloc[0], color=colour, linestyle=_BAND_STYLES[bands.index(arm) % 3], label=label)
            axis.axhspan(low.iloc[0], high.iloc[0], color=colour, alpha=0.12, linewidth=0)
        else:
            x = places.shifted(own["axis"].astype(float), number - len(arms) / 2)
            error = [(mean - low).fillna(0), (high - mean).fillna(0)]
            axis.errorbar(x, mean, yerr=error, color=colour, marker=MARKERS[number % 7], capsize=3, label=label)


def _seeds(rows: pd.DataFrame) -> str:
    counts = sorted(set(rows["n"]))
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element that can stand inside an HTML page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def as_pdf(figure: Figure) -> bytes:
    """The figure as a PDF for a paper, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def as_image(figure: Figure) -> Image.Image:
    """The figure as pixels, for pages that take no vectors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return Image.open(buffer)
