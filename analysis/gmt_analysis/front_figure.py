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

_MOST_NAMES = 10  # points that all have their names; of more, those on the front and the baseline


def choices_on_the_front(points: pd.DataFrame, *, task: str, baseline: str, at: float | None) -> Figure | None:
    """Return a figure of mean forgetting against mean target; None without a point.

    The choices that no other beats in both are coloured, joined by steps and named, and so is the baseline.

    Args:
        points: of a frontier.
        task: which one is drawn.
        baseline: the arm that the others are compared with.
        at: the target score at which arms are compared, as a line; None: no line.
    """
    own = points[points["task"] == task]
    if own.empty:
        return None
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axis = figure.subplots()
    if at is not None:
        axis.axvline(100 * at, color="0.6", linestyle=":", linewidth=1)
    front = own[pareto_front(own["forgetting"].to_numpy(float), own["target"].to_numpy(float))].sort_values("target")
    axis.step(100 * front["target"], 100 * front["forgetting"], where="pre", color=COLOURS[0], linewidth=1, alpha=0.5)
    is_held = own["arm"] == baseline
    on_front = own.index.isin(front.index)
    for rows, colour in (
        (own[~on_front & ~is_held], "0.6"),
        (own[on_front & ~is_held], COLOURS[0]),
        (own[is_held], "k"),
    ):
        (drawn,) = axis.plot(100 * rows["target"], 100 * rows["forgetting"], "o", color=colour, markersize=5)
        hover(drawn, [_in_words(row) for row in rows.to_dict("records")])
    named = own if len(own) <= _MOST_NAMES else own[on_front | is_held]
    axis.set_title(f"Frontier: {task}", fontsize=11)
    axis.set_xlabel(TARGET.unit)
    axis.set_ylabel(FORGETTING.unit)
    axis.set_xlim(*TARGET.limits(100 * own["target"].astype(float)))
    axis.set_ylim(*FORGETTING.limits(100 * own["forgetting"].astype(float)))
    axis.grid(alpha=0.25)
    ordered = named.assign(is_baseline=named["arm"] == baseline).sort_values(["is_baseline", "target"], ascending=False)
    write_names(
        axis,
        points=_places(own),
        names=[_name(row) for row in ordered.to_dict("records")],
        places=_places(ordered),
        num_certain=int(ordered["is_baseline"].sum()),
    )
    return figure


def _places(rows: pd.DataFrame) -> Sequence[tuple[float, float]]:
    return [(100 * x, 100 * y) for x, y in rows[["target", "forgetting"]].to_numpy(float).tolist()]


def _name(row: Mapping[Any, Any]) -> str:
    return choice_name(row["arm"], row["axis"])


def _in_words(row: Mapping[Any, Any]) -> str:
    return f"{_name(row)}: target {100 * row['target']:.1f} %, forgetting {100 * row['forgetting']:.1f} points"
