"""The result of a study in a few lines, for terminals and for MLflow's pages: a table of means, and the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from gmt.terminal import table
from gmt_analysis.choices import CHOICE, choice_name, ranges_of

if TYPE_CHECKING:
    from gmt_analysis.results import Results

_COLUMNS = {"target_after": "target, %", "forgetting": "forgetting, points"}


def means_text(results: Results, most: int | None = None) -> str:
    """Return a table of the mean scores of each choice, a block for each task, the best target first.

    Args:
        results: of the study.
        most: choices of a task that are shown, besides the baseline; None: all.
    """
    lines = []
    for task, own in _tasks(results, most):
        base = results.summary.loc[results.summary["task"] == task, "target_before"].mean()
        before = "" if pd.isna(base) else f" (base {100 * base:.1f})"
        heads = ["arm", "seeds", *_COLUMNS.values()]
        lines.append(f"{task}{before}\n{table(heads, own)}")
        if left := sum(results.summary["task"] == task) - len(own):
            lines[-1] += f"\n... and {left} more: `gmt show study={results.plan.study.name}` shows all"
    return "\n\n".join(lines)


def means_markdown(results: Results, most: int | None = None) -> str:
    """Return `means_text` as tables of Markdown."""
    blocks = []
    for task, own in _tasks(results, most):
        rows = [["arm", "seeds", *_COLUMNS.values()], ["---", *["---:"] * 3], *own]
        blocks.append(f"**{task}**\n\n" + "\n".join(f"| {' | '.join(map(_in_cell, row))} |" for row in rows))
    return "\n\n".join(blocks)


def _tasks(results: Results, most: int | None) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each task with the cells of its rows."""
    baseline = results.plan.study.baseline
    summary = results.summary.merge(ranges_of(results.table, list(_COLUMNS)), on=CHOICE, how="left")
    for task, own in summary.groupby("task", sort=False):
        ordered = own.sort_values("target_after", ascending=False).to_dict("records")
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
