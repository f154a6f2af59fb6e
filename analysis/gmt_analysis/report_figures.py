"""The figures of a study's results, by file name: each figure shows one task, so that it fits on a narrow page."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from gmt_analysis.choices import CHOICE, choice_name, scores_of
from gmt_analysis.cost_figures import cost_against_size, score_against_cost, time_of_a_step
from gmt_analysis.costs import is_shared
from gmt_analysis.diagnostic_figures import figure_of
from gmt_analysis.dots import Panel, dot_plot
from gmt_analysis.figures import MOST_LINES, SCORES, has_lines, score_along
from gmt_analysis.front_figure import choices_on_the_front
from gmt_analysis.frontier import frontier_figure
from gmt_analysis.loss_figures import loss_curves
from gmt_analysis.mask_figures import (
    MOST_COLUMNS,
    facts_by_choice,
    facts_by_layer,
    facts_over_steps,
    layers_by_choice,
)

if TYPE_CHECKING:
    from gmt_analysis.results import Results

# MLflow refuses these letters in the name of an image, and LaTeX refuses blanks in the name of a file.
_NO_WORD = re.compile(r"[^\w.-]+", re.ASCII)
_NAMES = ("arm", "task", "label", "other_label", "model")
_PREFIXES = {"label": "", "other_label": "other_"}  # column -> prefix of the columns that name its run


def frontier_figures(results: Results) -> dict[str, Figure]:
    """Return figures of forgetting against target: curves of a few arms, otherwise the Pareto front of all choices."""
    frontier = results.frontier
    shown = replace(frontier, points=_drawn(frontier.points), matched=_drawn(frontier.matched))
    figures = {}
    for task in dict.fromkeys(shown.points["task"]):
        figure = frontier_figure(shown, task=task) if has_curves(shown.points) else None
        if figure is None:
            at = shown.matched.loc[shown.matched["task"] == task, "at"]
            figure = choices_on_the_front(
                shown.points, task=task, baseline=frontier.baseline, at=float(at.iloc[0]) if len(at) else None
            )
        if figure is not None:
            figures[f"frontier_{_word(task)}"] = figure
    return figures


def has_curves(points: pd.DataFrame) -> bool:
    """Return whether a frontier is drawn as curves: it has few arms, and some arm has several points."""
    return bool(0 < points["arm"].nunique() <= MOST_LINES and points.groupby(["task", "arm"]).size().max() > 1)


def score_figures(results: Results) -> dict[str, Figure]:
    """Return figures of target and forgetting: along the axis for a few arms with it, otherwise as a dot plot."""
    summary, table = _drawn(results.summary), _drawn(results.table)
    figures = {}
    for task in dict.fromkeys(summary["task"]):
        if has_lines(results.summary):
            for score in SCORES:
                seeds = scores_of(table, score.column)
                figures[f"{score.column.removesuffix('_after')}_{_word(task)}"] = score_along(
                    summary, seeds, score, task=task, along=results.axis
                )
        else:
            figures[f"scores_{_word(task)}"] = _score_dots(summary, table, task, results.plan.study.baseline)
    return figures


def _score_dots(summary: pd.DataFrame, table: pd.DataFrame, task: str, baseline: str) -> Figure:
    rows = summary[summary["task"] == task].sort_values("target_after", ascending=False)
    runs = table[(table["state"] == "done") & (table["task"] == task)]
    panels = [
        Panel(column=score.column, title=f"{score.title}: {score.unit}", factor=100, low=score.low, high=score.high)
        for score in SCORES
    ]
    return dot_plot(
        runs.assign(label=_choices(runs)),
        _choices(rows),
        panels,
        title=f"Scores: {task}",
        marked=_marked(rows, baseline),
    )


def mask_figures(results: Results) -> dict[str, Figure]:
    """Return figures of the masks' energy, overlap and movement, over steps and over layers, for runs that masked."""
    figures: dict[str, Figure | None] = {}
    series = _drawn(results.series)
    is_many = series.loc[series["name"].str.startswith("mask/"), "arm"].nunique() > MOST_COLUMNS
    for task in dict.fromkeys(series["task"]):
        word = _word(task)
        if is_many:
            labelled = series.assign(label=_choices(series))
            figures[f"facts_{word}"] = facts_by_choice(labelled, task=task)
            figures[f"layers_{word}"] = layers_by_choice(labelled, task=task)
        else:
            figures[f"facts_{word}"] = facts_over_steps(series, task=task, along=results.axis)
            figures[f"layers_{word}"] = facts_by_layer(series, task=task, along=results.axis)
    return {name: figure for name, figure in figures.items() if figure is not None}


def loss_figures(results: Results) -> dict[str, Figure]:
    """Return a figure of the training loss over the steps for each task."""
    series = _drawn(results.series)
    figures = {
        f"loss_{_word(task)}": loss_curves(series, task=task, along=results.axis, baseline=results.plan.study.baseline)
        for task in dict.fromkeys(series["task"])
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def diagnostic_figures(results: Results) -> dict[str, Figure]:
    """Return a figure of each diagnostic, by its name."""
    figures = {}
    for name, measured in results.diagnoses.items():
        labels = {column: _labels(measured.rows, prefix) for column, prefix in _PREFIXES.items()}
        if (figure := figure_of(_drawn(measured.rows.assign(**labels)), measured.shown)) is not None:
            figures[f"diagnostic_{name}"] = figure
    return figures


def cost_figures(results: Results) -> dict[str, Figure]:
    """Return figures of a step's parts, of the score against costs, and for several model sizes of the time by size.

    If runs shared a machine, their wall times are shown for mask and optimizer alone, and not against scores.
    """
    runs, shared = _drawn(results.costs_of_runs), is_shared(results.table)
    runs, scores = runs.assign(label=_choices(runs)), _drawn(results.summary)
    pareto = {} if shared else {"pareto": ("train_s", "seconds in optimizer steps, median over seeds", results.costs)}
    if results.operations["tflops_a_run"].notna().any():
        label = "matrix operations of the training, 10^12"
        pareto["pareto_operations"] = ("tflops_a_run", label, results.operations)
    figures = {}
    for task in dict.fromkeys(runs["task"]):
        marked = _marked(runs[runs["task"] == task], results.plan.study.baseline)
        figures[f"step_time_{_word(task)}"] = time_of_a_step(runs, task=task, baseline=marked, is_shared=shared)
        for name, (cost, label, costs) in pareto.items():
            with_cost = scores[[*CHOICE, "target_after"]].merge(_drawn(costs[[*CHOICE, cost]]), on=CHOICE)
            figures[f"{name}_{_word(task)}"] = score_against_cost(with_cost, task=task, cost=cost, label=label)
    if results.runs["num_parameters"].nunique() > 1:
        figures["size"] = cost_against_size(_drawn(results.runs))
    return figures


def _word(task: str) -> str:
    return _NO_WORD.sub("_", str(task))


def _choices(rows: pd.DataFrame) -> list[str]:
    """Return the name of each row's choice."""
    return [choice_name(arm, value) for arm, value in zip(rows["arm"], rows["axis"], strict=True)]


def _marked(rows: pd.DataFrame, baseline: str) -> list[str]:
    """Return the names of the baseline's choices."""
    return list(dict.fromkeys(_choices(rows[rows["arm"] == baseline])))


def _labels(rows: pd.DataFrame, prefix: str) -> pd.Series[Any]:
    """Return the name of the choice of each row's run, with its task if there are several; None without a run."""
    several = rows["task"].nunique() > 1 if len(rows) else False
    return pd.Series(
        [
            None if arm is None else choice_name(arm, value) + (f", {task}" if several else "")
            for arm, value, task in rows[[f"{prefix}{column}" for column in ("arm", "axis", "task")]].values
        ],
        index=rows.index,
        dtype=object,
    )


def _drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table with each $ in its names escaped, since matplotlib would draw text between two $ as a formula."""
    names = [name for name in _NAMES if name in rows]
    return rows.assign(**{name: rows[name].map(_escaped(rows[name]), na_action="ignore") for name in names})


def _escaped(names: pd.Series[Any]) -> dict[Any, str]:
    return {name: str(name).replace("$", r"\$") for name in names.dropna().unique()}
