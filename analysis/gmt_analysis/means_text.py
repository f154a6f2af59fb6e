"""The result of a study in a few lines, for terminals and for MLflow's pages: a table of means, and the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from gmt.terminal import table
from gmt_analysis.choices import CHOICE, choice_name, ranges_of
from gmt_analysis.figures import has_lines

if TYPE_CHECKING:
    from gmt_analysis.results import Results

_ROUNDING = 1e-9  # of a value that is a whole number
_COLUMNS = {"target_after": "target, %", "forgetting": "forgetting, points"}


def means_text(results: Results, most: int | None = None) -> str:
    """Return a table of the mean scores of each choice, a block for each task, the best target first.

    Args:
        results: the results of the study.
        most: the number of choices to show on each task, besides the baseline; None: all.
    """
    lines = []
    for task, rows in _rows_by_task(results, most):
        base = results.summary.loc[results.summary["task"] == task, "target_before"].mean()
        before = "" if pd.isna(base) else f" (base {100 * base:.1f})"
        heads = ["arm", "seeds", *_COLUMNS.values()]
        lines.append(f"{task}{before}\n{table(heads, rows)}")
        if num_others := sum(results.summary["task"] == task) - len(rows):
            lines[-1] += f"\n... and {num_others} more: `gmt show study={results.plan.study.name}` shows all"
    return "\n\n".join(lines)


def means_markdown(results: Results, most: int | None = None) -> str:
    """Return `means_text` as tables of Markdown."""
    blocks = []
    for task, rows in _rows_by_task(results, most):
        lines = [["arm", "seeds", *_COLUMNS.values()], ["---", *["---:"] * 3], *rows]
        blocks.append(f"**{task}**\n\n" + "\n".join(f"| {' | '.join(map(_in_cell, line))} |" for line in lines))
    return "\n\n".join(blocks)


def means_by_step(results: Results) -> dict[str, dict[int, float]]:
    """Return the mean scores of each arm along the axis, for charts whose x axis takes whole numbers only.

    Returns:
        For each name, e.g. `mean/target/long_words/gmt`, the mean at each whole number from `steps_of`. Arms without
        the axis have the same mean at all of them. Empty for a study that is not drawn along its axis.
    """
    summary = results.summary
    if not has_lines(summary):
        return {}
    steps = steps_of(sorted(summary["axis"].dropna().astype(float).unique()))
    means = {}
    for (arm, task), group in summary.groupby(["arm", "task"], sort=False):
        for column in _COLUMNS:
            scored = group[group[column].notna()]
            by_value = dict(zip(scored["axis"].astype(float), scored[column].astype(float), strict=True))
            constant = next((score for value, score in by_value.items() if pd.isna(value)), None)
            points = {step: by_value.get(value, constant) for value, step in steps.items()}
            name = f"mean/{column.removesuffix('_after')}/{task}/{arm}"
            means[name] = {step: score for step, score in points.items() if score is not None}
    return means


def steps_of(values: Sequence[float]) -> dict[float, int]:
    """Return a whole number for each value: the value, or its percentage, if all of these are whole; else its rank."""
    for factor in (1, 100):
        rounded = [round(factor * value) for value in values]
        if all(abs(step - factor * value) < _ROUNDING for step, value in zip(rounded, values, strict=True)):
            return dict(zip(values, rounded, strict=True))
    return {value: place for place, value in enumerate(values, start=1)}


def _rows_by_task(results: Results, most: int | None) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each task with the cells of its rows."""
    baseline = results.plan.study.baseline
    summary = results.summary.merge(ranges_of(results.table, list(_COLUMNS)), on=CHOICE, how="left")
    for task, group in summary.groupby("task", sort=False):
        ordered = group.sort_values("target_after", ascending=False).to_dict("records")
        shown = [row for place, row in enumerate(ordered) if most is None or place < most or row["arm"] == baseline]
        yield str(task), [_cells(row, is_marked=row["arm"] == baseline) for row in shown]


def _cells(row: dict[Any, Any], *, is_marked: bool) -> list[str]:
    name = choice_name(row["arm"], row["axis"]) + (" (baseline)" if is_marked else "")
    return [name, str(row["n"]), *(_score(row, column) for column in _COLUMNS)]


def _score(row: dict[Any, Any], column: str) -> str:
    if pd.isna(row[column]):
        return ""
    mean, least, most = (f"{100 * row[key]:.1f}" for key in (column, f"{column}_least", f"{column}_most"))
    return mean if least == most else f"{mean} ({least} to {most})"


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")
