"""The numbers of a report as tables: HTML for its page, LaTeX for a paper."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from gmt.axis import Axis
from gmt_analysis.choices import CHOICE
from gmt_analysis.exports import as_latex
from gmt_analysis.findings import Findings, as_table
from gmt_analysis.power import POWER

SCORES = {
    "target_after": "Target, exact match",
    "forgetting": "Forgetting (source before - after)",
    "source_perplexity_after": "Perplexity of source texts",
    "density": "Density kept",
    "moved_fraction": "Moved fraction",
}
COSTS = {
    "forward_backward_s": "Forward + backward, ms/step",
    "mask_s": "Mask, ms/step",
    "optimizer_s": "Optimizer, ms/step",
    "tokens_per_s": "Tokens/s in steps",
    "train_s": "Training steps, s/run",
    "peak_memory_bytes": "Peak memory, MiB",
    "optimizer_state_bytes": "Optimizer state without the mask's, MiB",
    "num_trained": "Entries trained a step",
    "num_touched": "Entries ever trained",
    "gflops_a_step": "Operations, 10⁹/step",
}


def _heads(axis: Axis) -> dict[str, str]:
    return dict(zip(CHOICE, ("Arm", "Task", axis.name.capitalize()), strict=True))


def html_table(summary: pd.DataFrame, columns: Mapping[str, str], axis: Axis) -> str:
    """Return the means of each choice as an HTML table, without empty columns.

    Args:
        summary: from `summarise`, with the columns.
        columns: SCORES or COSTS.
        axis: the axis of the study.
    """
    columns = {column: name for column, name in columns.items() if summary[column].notna().any()}
    heads = _heads(axis)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{_text(row[column])}</td>" for column in heads)
        + f"<td>{row['n']}</td>"
        + "".join(f"<td>{_cell(row, column)}</td>" for column in columns)
        + "</tr>"
        for _, row in summary.iterrows()
    )
    return _html((*heads.values(), "n", *columns.values()), body)


def html_differences(findings: Findings, axis: Axis) -> list[tuple[str, str]]:
    """Return the tables of differences to the baseline: for each the end of its title, and the table as HTML."""
    rows = {
        "on each task": (findings.to_baseline, _heads(axis)),
        "over all tasks": (findings.in_common, {"choice": f"Arm, {axis.name}"}),
    }
    return [
        (name, _differences_table(as_table(own, findings.measure), heads))
        for name, (own, heads) in rows.items()
        if len(own)
    ]


def _differences_table(rows: pd.DataFrame, heads: Mapping[str, str]) -> str:
    names = (*heads.values(), "n", "Difference, points", "p (Holm)", f"Found with a power of {POWER:.0%}", "In words")
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(row[column])}</td>" for column in heads) + f"<td>{row['n']}</td>"
        f"<td>{'' if pd.isna(row['difference']) else format(row['difference'], '+.1f')}{_bounds(row)}</td>"
        f"<td>{'' if pd.isna(row['p_holm']) else format(row['p_holm'], '.3g')}</td>"
        f"<td>{'' if pd.isna(row['detectable']) else format(row['detectable'], '.1f')}</td><td>{row['words']}</td></tr>"
        for row in rows.to_dict("records")
    )
    return _html(names, body)


def _html(heads: Iterable[str], body: str) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: Any) -> str:
    return "" if pd.isna(value) else html.escape(value if isinstance(value, str) else format(value, "g"))


def _bounds(row: Mapping[Any, Any]) -> str:
    return "" if pd.isna(row["low"]) else f" <small>[{row['low']:+.1f}, {row['high']:+.1f}]</small>"


def latex_table(summary: pd.DataFrame, axis: Axis) -> str:
    """Return the scores as a LaTeX table for booktabs: means with the half width of their t interval."""
    columns = {c: name for c, name in SCORES.items() if summary[c].notna().any()}
    rows = [
        [
            as_latex(row["arm"]),
            as_latex(row["task"]),
            "" if pd.isna(row["axis"]) else f"{row['axis']:g}",
            row["n"],
        ]
        + [_plus_minus(row, column) for column in columns]
        for row in summary.to_dict("records")
    ]
    heads = [*_heads(axis).values(), "n", *(_with_unit(column, name) for column, name in columns.items())]
    shown = pd.DataFrame(rows, columns=list(map(as_latex, heads))).astype(str)
    return str(shown.style.hide(axis="index").to_latex(hrules=True, column_format="ll" + "r" * (shown.shape[1] - 2)))


def _with_unit(column: str, name: str) -> str:
    unit = _shown(column)[2].strip()
    return f"{name}, {unit}" if unit else name


def _plus_minus(row: Mapping[Any, Any], column: str) -> str:
    mean, high = row[column], row[f"{column}_high"]
    factor, digits, _ = _shown(column)
    if pd.isna(mean):
        return ""
    half = "" if pd.isna(high) else f" \\pm {factor * (high - mean):.{digits}f}"
    return f"${factor * mean:.{digits}f}{half}$"


def _cell(row: "pd.Series[float]", column: str) -> str:
    mean = row[column]
    low, high = (row[bound] if bound in row else float("nan") for bound in (f"{column}_low", f"{column}_high"))
    factor, digits, unit = _shown(column)
    if pd.isna(mean):
        return ""
    interval = "" if pd.isna(low) else f" <small>[{factor * low:.{digits}f}, {factor * high:.{digits}f}]</small>"
    return f"{factor * mean:.{digits}f}{unit}{interval}"


def _shown(column: str) -> tuple[float, int, str]:
    """Factor, digits and unit in which a column is shown."""
    if column == "peak_memory_bytes":
        return 2**-20, 0, ""
    if column == "optimizer_state_bytes":
        return 2**-20, 2, ""
    if column in ("num_trained", "num_touched"):
        return 1, 0, ""
    if column in ("train_s", "source_perplexity_after"):
        return 1, 1, ""
    if column == "tokens_per_s":
        return 1, 0, ""
    if column == "gflops_a_step":
        return 1, 2, ""
    return (1000, 2, "") if column.endswith("_s") else (100, 1, " %")
