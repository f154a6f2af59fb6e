"""Forgetting against target with a point for each choice: the frontier of studies without curves, or with many arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gmt_analysis.choices import choice_name
from gmt_analysis.cost_figures import pareto_front
from gmt_analysis.figures import FORGETTING, TARGET
from gmt_analysis.names_beside import write_names
from gmt_analysis.rendering import hover
from gmt_analysis.styles import COLOURS

_MOST_NAMES = 10  # points: if there are more, only those on the front and the baseline have their names


def choices_on_the_front(points: pd.DataFrame, *, task: str, baseline: str, at: float | None) -> Figure | None:
    """Return a figure of mean forgetting against mean target; None without a point.

    The choices on the Pareto front are coloured, joined by steps and named. The baseline is black and named.

    Args:
        points: the points of a frontier.
        task: the drawn task.
        baseline: the arm that the others are compared with.
        at: the target score at which arms are compared, drawn as a line; None: no line.
    """
    shown = points[points["task"] == task]
    if shown.empty:
        return None
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axis = figure.subplots()
    if at is not None:
        axis.axvline(100 * at, color="0.6", linestyle=":", linewidth=1)
    is_on_front = pareto_front(shown["forgetting"].to_numpy(float), shown["target"].to_numpy(float))
    front = shown[is_on_front].sort_values("target")
    axis.step(100 * front["target"], 100 * front["forgetting"], where="pre", color=COLOURS[0], linewidth=1, alpha=0.5)
    is_baseline = shown["arm"] == baseline
    for rows, colour in (
        (shown[~is_on_front & ~is_baseline], "0.6"),
        (shown[is_on_front & ~is_baseline], COLOURS[0]),
        (shown[is_baseline], "k"),
    ):
        (drawn,) = axis.plot(100 * rows["target"], 100 * rows["forgetting"], "o", color=colour, markersize=5)
        hover(drawn, [_in_words(row) for row in rows.to_dict("records")])
    named = shown if len(shown) <= _MOST_NAMES else shown[is_on_front | is_baseline]
    axis.set_title(f"Frontier: {task}", fontsize=11)
    axis.set_xlabel(TARGET.unit)
    axis.set_ylabel(FORGETTING.unit)
    axis.set_xlim(*TARGET.limits(100 * shown["target"].astype(float)))
    axis.set_ylim(*FORGETTING.limits(100 * shown["forgetting"].astype(float)))
    axis.grid(alpha=0.25)
    ordered = named.assign(is_baseline=named["arm"] == baseline).sort_values(["is_baseline", "target"], ascending=False)
    write_names(
        axis,
        points=_coordinates(shown),
        names=[_name(row) for row in ordered.to_dict("records")],
        places=_coordinates(ordered),
        num_certain=int(ordered["is_baseline"].sum()),
    )
    return figure


def _coordinates(rows: pd.DataFrame) -> Sequence[tuple[float, float]]:
    return [(100 * x, 100 * y) for x, y in rows[["target", "forgetting"]].to_numpy(float).tolist()]


def _name(row: Mapping[Any, Any]) -> str:
    return choice_name(row["arm"], row["axis"])


def _in_words(row: Mapping[Any, Any]) -> str:
    return f"{_name(row)}: target {100 * row['target']:.1f} %, forgetting {100 * row['forgetting']:.1f} points"
