"""The training loss over the steps."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmt.axis import Axis
from gmt_analysis.choices import choice_name
from gmt_analysis.mask_figures import MOST_COLUMNS, legend_of_values, lines_by_value

LOSS = "train/loss"
_PANEL_IN = (3.3, 2.9)


def loss_curves(series: pd.DataFrame, *, task: str, along: Axis, baseline: str) -> Figure | None:
    """Return a figure with a line for the mean training loss of each choice; None if no loss was logged.

    A few arms have a panel each, and colours show the value of the axis. Many arms share one panel, in which all lines
    but the baseline's are grey.

    Args:
        series: from gmt.tracking.series.read_series, with LOSS.
        task: the drawn task.
        along: the study's axis.
        baseline: the arm that the others are compared with.
    """
    losses = series[(series["name"] == LOSS) & (series["task"] == task)]
    if losses.empty:
        return None
    arms = list(dict.fromkeys(losses["arm"]))
    columns = len(arms) if len(arms) <= MOST_COLUMNS else 1
    width, height = _PANEL_IN
    figure = Figure(figsize=(max(width * columns, 5.2) + 0.8, height + 0.8 * (columns == 1)), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    if columns == len(arms):
        values = sorted(losses["axis"].dropna().unique())
        for axis, arm in zip(axes, arms, strict=True):
            lines_by_value(axis, losses[losses["arm"] == arm], "step", values)
            axis.set_title(arm, fontsize=10)
        if len(values):
            legend_of_values(figure, along)
    else:
        _draw_many(axes[0], losses, baseline)
    for axis in axes:
        axis.set_xlabel("optimizer step")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("training loss")
    figure.suptitle(f"Training loss: {task}", fontsize=11)
    return figure


def _draw_many(axis: Axes, rows: pd.DataFrame, baseline: str) -> None:
    """Draw the baseline in black and all others as thin grey lines; name the lowest and the highest at the end."""
    means = rows.groupby(["arm", "axis", "step"], dropna=False, sort=False)["value"].mean().astype(float).reset_index()
    ends: dict[str, tuple[float, float]] = {}
    for _, line in means.groupby(["arm", "axis"], dropna=False, sort=False):
        arm, value = line["arm"].iloc[0], line["axis"].iloc[0]
        ordered = line.sort_values("step")
        is_baseline = arm == baseline
        axis.plot(
            ordered["step"],
            ordered["value"],
            color="black" if is_baseline else "0.6",
            linewidth=1.8 if is_baseline else 0.7,
            zorder=2 if is_baseline else 1,
            label=str(arm) if is_baseline else None,
        )
        ends[choice_name(arm, value)] = (float(ordered["step"].iloc[-1]), float(ordered["value"].iloc[-1]))
    by_loss = sorted(ends, key=lambda name: ends[name][1])
    for name in {by_loss[0], by_loss[-1]}:
        axis.annotate(name, ends[name], (3, 0), textcoords="offset points", fontsize=7, va="center")
    if baseline in set(rows["arm"]):
        axis.legend(fontsize=9, frameon=False)
