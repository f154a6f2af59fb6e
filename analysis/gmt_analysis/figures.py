"""Figures of a score along a study's axis: arms that have the axis as lines, the others as bands."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
_HANDLE_IN, _LETTER_IN = 0.6, 0.07  # of a legend in 9 points
_DODGE = 0.01  # of the axis's span, between arms side by side, so that no interval hides another
_BAND_STYLES = ("--", ":", "-.")


def score_along(summary: pd.DataFrame, column: str, *, along: Axis, title: str, unit: str) -> Figure:
    """One axis for each task.

    Args:
        summary: from `summarise`, with `column` and its bounds.
        column: what is drawn, a fraction; shown in per cent.
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
    legend_above(figure)
    return figure


def legend_above(figure: Figure) -> None:
    """One legend for all axes, where it hides no point; what has the same label looks the same on all of them."""
    named = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(named.values()),
        list(named),
        fontsize=9,
        frameon=False,
        loc="outside upper center",
        ncols=max(1, min(len(named), _MOST_COLUMNS, int(figure.get_figwidth() / _width_in(named)))),
    )


def _width_in(labels: Iterable[str]) -> float:
    """The inches that a column of the legend takes, by its longest label."""
    return _HANDLE_IN + _LETTER_IN * max(map(len, labels), default=0)


@dataclass(frozen=True)
class _Places:
    """Where values of the axis lie on a figure, whose arms stand side by side.

    Args:
        values: that some arm has, in order.
        is_logarithmic: whether the figure shows them on a logarithmic scale.
    """

    values: Sequence[float]
    is_logarithmic: bool

    def beside(self, values: pd.Series, offset: float) -> pd.Series:
        """Return values moved by `offset` times _DODGE of the span."""
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
            x = places.beside(own["axis"].astype(float), number - len(arms) / 2)
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
