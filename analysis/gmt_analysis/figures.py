"""Figures of a score along a study's axis: arms that have the axis as lines, the others as bands."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmt.axis import Axis
from gmt_analysis.choices import FEW_SEEDS, choice_name
from gmt_analysis.rendering import hover
from gmt_analysis.styles import COLOURS, Style, arm_styles

MOST_LINES = len(COLOURS)  # arms in a figure of lines; more are drawn as points by gmt_analysis.dots
_MOST_COLUMNS = 5  # of a legend
_HANDLE_IN, _LETTER_IN = 0.6, 0.07  # widths in a legend of 9 points
_DODGE = 0.008  # of the axis's span: the distance between arms, so that no point hides another
_BAND_STYLES = ("--", ":", "-.")
_MOST_TICKS = 12
_ROOM = 0.06  # of the span of the shown scores, above and below


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score as figures show it.

    Args:
        column: the column of the typed table, which holds fractions.
        title: the title of the figure.
        unit: the label of the figure's axis.
        low, high: the smallest and the largest possible value, in per cent.
    """

    column: str
    title: str
    unit: str
    low: float
    high: float

    def clipped(self, shown: pd.Series) -> pd.Series:
        """Return values in per cent, clipped to the possible ones."""
        return shown.clip(self.low, self.high)

    def limits(self, shown: pd.Series) -> tuple[float, float]:
        """Return the ends of an axis that shows these values, in per cent."""
        values = self.clipped(shown.dropna())
        if values.empty:
            return self.low, self.high
        room = max(_ROOM * (values.max() - values.min()), 1)
        return max(values.min() - room, self.low - 1), min(values.max() + room, self.high + 1)


TARGET = Score(column="target_after", title="Target score", unit="exact match after training, %", low=0, high=100)
FORGETTING = Score(
    column="forgetting", title="Forgetting", unit="source score lost, percentage points", low=-100, high=100
)
SCORES = (TARGET, FORGETTING)


def has_lines(summary: pd.DataFrame) -> bool:
    """Return whether a study is drawn along its axis: it has few arms, and some arm has several values."""
    values = summary.groupby("arm")["axis"].nunique()
    return len(values) <= MOST_LINES and bool((values > 1).any())


def score_along(summary: pd.DataFrame, seeds: pd.DataFrame, score: Score, *, task: str, along: Axis) -> Figure:
    """Return a figure of a score on a task along the axis.

    Args:
        summary: from `summarise`, with the score's column and its bounds; all tasks, so that an arm looks the same on
            each.
        seeds: the scores of single runs, from `scores_of`.
        score: the drawn score.
        task: the task.
        along: the study's axis.
    """
    values = sorted(summary["axis"].dropna().astype(float).unique())
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    places = _Places(values, along.is_logarithmic(values))
    places.scale(axis)
    rows, runs = summary[summary["task"] == task], seeds[seeds["task"] == task]
    _draw(axis, rows, runs, score, arm_styles(summary["arm"]), places, along)
    axis.set_title(f"{score.title}: {task}", fontsize=11)
    axis.set_xlabel(along.label)
    axis.set_ylabel(score.unit)
    axis.grid(alpha=0.25)
    legend_outside(figure)
    return figure


def legend_outside(
    figure: Figure, place: Literal["outside upper center", "outside lower center"] = "outside upper center"
) -> None:
    """Draw one legend for all axes, outside of them and with each label once; do nothing if there is no label.

    Args:
        figure: a figure on whose axes a label always looks the same.
        place: the edge of the figure, in matplotlib's words.
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
        """Set the scale of the x axis, and its ticks at the values where they are few."""
        if self.is_logarithmic:
            axis.set_xscale("log")
        if self.is_logarithmic or len(self.values) <= _MOST_TICKS:
            axis.set_xticks(self.values, [f"{value:g}" for value in self.values])
            axis.minorticks_off()


def _draw(
    axis: Axes,
    rows: pd.DataFrame,
    runs: pd.DataFrame,
    score: Score,
    styles: dict[str, Style],
    places: _Places,
    along: Axis,
) -> None:
    shown = [100 * runs[score.column]]
    bands = [arm for arm in styles if rows[rows["arm"] == arm]["axis"].isna().all()]
    for number, (arm, style) in enumerate(styles.items()):
        arm_rows = rows[rows["arm"] == arm].sort_values("axis")
        if arm_rows.empty:
            continue
        arm_runs = runs[runs["arm"] == arm]
        mean, low, high = (
            100 * arm_rows[c].astype(float) for c in (score.column, f"{score.column}_low", f"{score.column}_high")
        )
        is_few = bool(arm_rows["n"].max() < FEW_SEEDS)
        label = f"{arm} (n = {_seeds(arm_rows)})"
        offset = number - (len(styles) - 1) / 2
        if arm in bands:
            axis.axhline(
                mean.iloc[0], color=style.colour, linestyle=_BAND_STYLES[bands.index(arm) % 3], label=label, zorder=1
            )
            if is_few:
                _points_at_the_edge(axis, 100 * arm_runs[score.column], style, bands.index(arm))
            else:
                shown += [low, high]
                axis.axhspan(low.iloc[0], high.iloc[0], color=style.colour, alpha=0.12, linewidth=0)
            continue
        x = places.shifted(arm_rows["axis"].astype(float), offset)
        line: dict[str, Any] = {"color": style.colour, "marker": style.marker, "label": label}
        if is_few:
            (drawn,) = axis.plot(x, mean, **line)
            x_runs = places.shifted(arm_runs["axis"], offset)
            y_runs = 100 * arm_runs[score.column]
            axis.plot(x_runs, y_runs, ".", color=style.colour, alpha=0.55, markersize=5, zorder=1)
        else:
            low, high = score.clipped(low), score.clipped(high)
            shown += [low, high]
            error = [(mean - low).fillna(0), (high - mean).fillna(0)]
            drawn = axis.errorbar(x, mean, yerr=error, capsize=3, **line).lines[0]
        hover(drawn, [_in_words(row, arm_runs, score, along) for row in arm_rows.to_dict("records")])
    axis.set_ylim(*score.limits(pd.concat(shown)))


def _points_at_the_edge(axis: Axes, shown: pd.Series, style: Style, number: int) -> None:
    """Draw the seeds of an arm without the axis at the right edge, where no value of the axis is."""
    place = [0.985 - 0.012 * number] * len(shown)
    edge = axis.get_yaxis_transform()  # x in the panel's width, y in the score
    axis.plot(place, shown, ".", transform=edge, color=style.colour, alpha=0.55, markersize=5, zorder=1)


def _in_words(row: Mapping[Any, Any], runs: pd.DataFrame, score: Score, along: Axis) -> str:
    value = float(row["axis"])
    seeds = runs.loc[runs["axis"] == value, score.column]
    return f"{choice_name(row['arm'], value)}: {in_words(seeds)}"


def in_words(values: pd.Series) -> str:
    """Return the mean of scores and the scores themselves, in per cent, e.g. `70.2 (70.1, 70.2, 70.3)`."""
    every = ", ".join(f"{100 * value:.1f}" for value in values)
    return f"{100 * values.mean():.1f}" + (f" ({every})" if len(values) > 1 else "")


def _seeds(rows: pd.DataFrame) -> str:
    counts = sorted(set(rows["n"]))
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
