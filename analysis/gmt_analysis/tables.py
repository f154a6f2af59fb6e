"""The numbers of a report as tables: HTML for its page, LaTeX for a paper."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gmt.axis import Axis
from gmt.verdicts.power import POWER
from gmt.verdicts.verdict import Comparison, Verdict
from gmt_analysis.choices import CHOICE, FEW_SEEDS
from gmt_analysis.exports import as_latex
from gmt_analysis.findings import Findings, as_table
from gmt_analysis.frontier import Frontier
from gmt_analysis.suites import SUITE, is_loss
from gmt_analysis.variation import DRAWS, SEED

SCORES = {
    "target_after": "Target, exact match",
    "forgetting": "Forgetting (source before - after)",
    "source_perplexity_after": "Perplexity of source texts",
    "source_nll_after": "Loss at right source answers, nats a token",
    "source_kl": "KL from the base at right source answers, nats a token",
    "density": "Density kept",
    "trained_fraction": "Trained at a step",
    "touched_fraction": "Ever trained",
    "moved_fraction": "Moved from the base",
    "relative_delta_norm": "Size of the change, norm over the base's",
}
_FAINT = 0.005  # a smaller change of a score has no colour
_DEEPEST = 0.9  # the colour's strength where everything is lost
MOST_COMPARISONS = 120  # rows of a question's table, or of a table of differences, on the page
_P_TASKS = {"p, same difference on all tasks": "p_tasks"}
COSTS = {
    "forward_backward_s": "Forward + backward, ms/step",
    "mask_s": "Mask, ms/step",
    "optimizer_s": "Optimizer, ms/step",
    "tokens_per_s": "Tokens/s in steps",
    "train_s": "Training steps, s/run",
    "peak_memory_bytes": "Peak memory, MiB",
    "optimizer_state_bytes": "Optimizer state without the mask's memory, MiB",
    "num_trained": "Entries trained a step",
    "num_touched": "Entries ever trained",
    "gflops_a_step": "Operations, 10⁹/step",
}


def _heads(axis: Axis) -> dict[str, str]:
    """Return the columns that name a choice, with their heads."""
    return dict(zip(CHOICE, ("Arm", "Task", axis.name.capitalize()), strict=True))


def _narrow_heads(axis: Axis, tasks: Iterable[object]) -> dict[str, str]:
    """Return `_heads` without the task where all rows have the same one."""
    heads = _heads(axis)
    return {column: head for column, head in heads.items() if column != "task" or len(set(tasks)) > 1}


def html_table(summary: pd.DataFrame, columns: Mapping[str, str], axis: Axis) -> str:
    """Return the means or medians of each choice as an HTML table, without empty columns.

    Args:
        summary: a row for each choice, with these columns. A number is followed by its interval from `COLUMN_low` to
            `COLUMN_high` if the choice has FEW_SEEDS or more, otherwise by its range, `COLUMN_least` to `COLUMN_most`.
        columns: SCORES or COSTS.
        axis: the axis of the study.
    """
    columns = {column: name for column, name in columns.items() if summary[column].notna().any()}
    heads = _narrow_heads(axis, summary["task"])
    body = "".join(
        "<tr>"
        + "".join(f"<td>{_text(row[column])}</td>" for column in heads)
        + f"<td>{row['n']}</td>"
        + "".join(f"<td>{_cell(row, column)}</td>" for column in columns)
        + "</tr>"
        for row in summary.to_dict("records")
    )
    return _html((*heads.values(), "n", *columns.values()), body)


def html_suites(means: pd.DataFrame, axis: Axis) -> str:
    """Return the mean scores of each choice by suite, with the change from the base, as an HTML table.

    Args:
        means: the means from `means_by_suite` on one task.
        axis: the axis of the study.
    """
    heads = _narrow_heads(axis, [])
    columns = [tuple(map(str, key)) for key in dict.fromkeys(zip(*(means[name] for name in SUITE), strict=True))]
    bases = means.groupby(SUITE, sort=False)["before"].mean()
    names = [_suite_name(column, bases[column]) for column in columns]
    body = ""
    for _, of_choice in means.groupby(CHOICE, dropna=False, sort=False):
        first = "".join(f"<td>{_text(of_choice[column].iloc[0])}</td>" for column in heads)
        cells = {tuple(row[name] for name in SUITE): row for row in of_choice.to_dict("records")}
        body += f"<tr>{first}{''.join(_suite(cells.get(column)) for column in columns)}</tr>"
    return _html((*heads.values(), *names), body)


def _suite_name(column: Sequence[str], base: float) -> str:
    part, suite, metric = column
    name = f"{part} {suite}" + ("" if metric in ("exact_match", "") else f" {metric.replace('_', ' ')}")
    if pd.isna(base):
        return name
    return f"{name} (base {base:.3g})" if is_loss(suite, metric) else f"{name}, % (base {100 * base:.1f})"


def _suite(row: Mapping[Any, Any] | None) -> str:
    """Return a cell; the background of a score is the redder the more was lost, the greener the more was gained."""
    if row is None or pd.isna(row["after"]):
        return "<td></td>"
    change = row["after"] - row["before"]
    if is_loss(row["suite"], row["metric"]):
        return f"<td>{row['after']:.3g}{'' if pd.isna(change) else f' <small>{change:+.3g}</small>'}</td>"
    colour = "213, 94, 0" if change < 0 else "0, 158, 115"
    shade = f' style="background: rgba({colour}, {min(abs(change), 1) * _DEEPEST:.2f})"' if abs(change) > _FAINT else ""
    return f"<td{shade}>{100 * row['after']:.1f} <small>{100 * change:+.1f}</small></td>"


def html_matched(frontier: Frontier) -> str:
    """Return the forgetting of each arm at a target score as an HTML table, in points, the least above."""
    has_tasks = frontier.matched["task"].nunique() > 1
    names = (
        "Arm",
        *(["Task"] if has_tasks else []),
        "n",
        "Points of the curve",
        "At a target of, %",
        "Forgets",
        f"Difference to {frontier.baseline}",
    )
    body = "".join(
        f"<tr><td>{_text(row['arm'])}</td>{_task_cell(row, has_tasks)}<td>{row['n']}</td><td>{row['num_points']}</td>"
        f"<td>{100 * row['at']:.1f}</td>{_matched(row, 'forgetting', '.1f')}{_matched(row, 'difference', '+.1f')}</tr>"
        for row in frontier.matched.sort_values(["task", "forgetting"]).to_dict("records")
    )
    return _html(names, body)


def _task_cell(row: Mapping[Any, Any], has_tasks: bool) -> str:
    return f"<td>{_text(row['task'])}</td>" if has_tasks else ""


def _matched(row: Mapping[Any, Any], name: str, digits: str) -> str:
    if not np.isfinite(row["forgetting"]):
        return "<td>not reached</td>" if name == "forgetting" else "<td></td>"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if pd.isna(low) else f" <small>[{100 * low:{digits}}, {100 * high:{digits}}]</small>"
    return f"<td>{100 * row[name]:{digits}}{interval}</td>"


def html_comparisons(verdict: Verdict) -> str:
    """Return the comparisons of a primary question, at most MOST_COMPARISONS with the smallest p, as HTML in points."""
    rows = list(verdict.comparisons)
    if len(rows) > MOST_COMPARISONS:
        rows = sorted(rows, key=lambda row: (math.isnan(row.p), row.p))[:MOST_COMPARISONS]
    p_columns = {"p": "p"} | ({} if all(math.isnan(row.p_tasks) for row in rows) else _P_TASKS)
    has_tasks = len({row.task for row in rows}) > 1
    has_questions = not all(math.isnan(row.low_questions) for row in rows)
    names = (
        *("Arm", "Against", *(["Task"] if has_tasks else []), "n", "Difference, points"),
        *(["Interval over seeds and test questions"] if has_questions else []),
        *(*p_columns, "Decision"),
    )
    body = "".join(
        f"<tr><td>{_text(row.choice)}</td><td>{_text(row.against)}</td>{_task_cell(vars(row), has_tasks)}"
        f"<td>{row.n}</td>"
        f"<td>{_points(row.estimate)}{_bounds({'low': 100 * row.low, 'high': 100 * row.high})}</td>"
        f"{_questions_cell(row) if has_questions else ''}"
        f"{_p_cells(vars(row), p_columns)}<td>{row.decision}</td></tr>"
        for row in rows
    )
    return _html(names, body)


def _questions_cell(row: Comparison) -> str:
    return f"<td>{_bounds({'low': 100 * row.low_questions, 'high': 100 * row.high_questions})}</td>"


def _p_cells(row: Mapping[Any, Any], p_columns: Mapping[str, str]) -> str:
    return "".join(f"<td>{'' if pd.isna(row[key]) else format(row[key], '.3g')}</td>" for key in p_columns.values())


def _points(difference: float) -> str:
    return "" if pd.isna(difference) else format(100 * difference, "+.1f")


def html_differences(findings: Findings, axis: Axis) -> list[tuple[str, str]]:
    """Return the title and the HTML of each table of differences, at most MOST_COMPARISONS rows with the smallest p."""
    to_baseline, between = f"Differences to {findings.baseline}", findings.between
    arm_heads = _narrow_heads(axis, between.get("task", []))
    rows = {
        f"{to_baseline} on each task": (
            findings.to_baseline,
            _narrow_heads(axis, findings.to_baseline.get("task", [])),
        ),
        f"{to_baseline} over all tasks": (findings.in_common, {"choice": f"Arm, {axis.name}"}),
        f"Arm against arm at the same {axis.name}": (between, {"arm": "Arm", "against": "Against"} | arm_heads),
    }
    tables = []
    for title, (differences, heads) in rows.items():
        shown = differences
        if len(differences) > MOST_COMPARISONS:
            title += f": the {MOST_COMPARISONS} of {len(differences):,} rows with the smallest p"
            shown = differences.sort_values("p", kind="stable")[:MOST_COMPARISONS]
        if len(shown):
            tables.append((title, _differences_table(as_table(shown, findings.measure), heads)))
    return tables


def _differences_table(rows: pd.DataFrame, heads: Mapping[str, str]) -> str:
    p_columns = {"p, corrected": "p_shared", "p by Welch's unpaired test, corrected": "p_welch_shared"}
    p_columns |= _P_TASKS if "p_tasks" in rows else {}
    has_diverged = bool(rows["num_diverged"].sum())
    names = (
        *heads.values(),
        "n",
        "Difference, points",
        *(["Without pairs in which a run diverged"] if has_diverged else []),
        *p_columns,
        f"Detectable with a power of {POWER:.0%}, points",
        "In words",
    )
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(row[column])}</td>" for column in heads) + f"<td>{row['n']}</td>"
        f"<td>{'' if pd.isna(row['difference']) else format(row['difference'], '+.1f')}{_bounds(row)}</td>"
        f"{_diverged_cell(row) if has_diverged else ''}{_p_cells(row, p_columns)}"
        f"<td>{'' if pd.isna(row['detectable']) else format(row['detectable'], '.1f')}</td><td>{row['words']}</td></tr>"
        for row in rows.to_dict("records")
    )
    return _html(names, body)


def _diverged_cell(row: Mapping[Any, Any]) -> str:
    number = row["num_diverged"]
    shown = _points(row["without_diverged"]) if number else ""
    return f"<td>{shown}{f' <small>{number} diverged</small>' if number else ''}</td>"


def html_variation(rows: pd.DataFrame, axis: Axis) -> str:
    """Return the deviations from `gmt_analysis.variation.variation`, of one measure, as an HTML table in points."""
    heads = _narrow_heads(axis, rows["task"])
    numbers = {"difference": "Difference"}
    for name, words in {SEED: "seeds", **DRAWS}.items():
        if f"deviation_{name}" in rows and rows[f"deviation_{name}"].notna().any():
            most = int(rows[f"num_{name}"].max())
            numbers[f"deviation_{name}"] = f"Standard deviation over {most} {words}"
    numbers |= {"deviation_rest": "Residual standard deviation", "error": "Standard error if all were drawn anew"}
    body = "".join(
        "<tr>"
        + "".join(f"<td>{_text(row[column])}</td>" for column in heads)
        + "".join(f"<td>{'' if pd.isna(row[key]) else format(100 * row[key], '.1f')}</td>" for key in numbers)
        + "</tr>"
        for row in rows.to_dict("records")
    )
    return _html((*heads.values(), *numbers.values()), body)


def _html(heads: Iterable[str], body: str) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    return f"<table class=sortable><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: Any) -> str:
    return "" if pd.isna(value) else html.escape(value if isinstance(value, str) else format(value, "g"))


def _bounds(row: Mapping[Any, Any]) -> str:
    return "" if pd.isna(row["low"]) else f" <small>[{row['low']:+.1f}, {row['high']:+.1f}]</small>"


def latex_table(summary: pd.DataFrame, axis: Axis) -> str:
    """Return the scores as a LaTeX table for booktabs: means with half the width of their t interval."""
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
    heads = [
        *_heads(axis).values(),
        "n",
        *(_with_unit(column, name) for column, name in columns.items()),
    ]
    shown = pd.DataFrame(rows, columns=list(map(as_latex, heads))).astype(str)
    return str(shown.style.hide(axis="index").to_latex(hrules=True, column_format="ll" + "r" * (shown.shape[1] - 2)))


def _with_unit(column: str, name: str) -> str:
    unit = _shown(column)[2].strip()
    return f"{name}, {unit}" if unit else name


def _plus_minus(row: Mapping[Any, Any], column: str) -> str:
    factor, digits, _ = _shown(column)
    if pd.isna(row[column]):
        return ""
    mean = f"${factor * row[column]:.{digits}f}"
    if row["n"] >= FEW_SEEDS and not pd.isna(high := row[f"{column}_high"]):
        return f"{mean} \\pm {factor * (high - row[column]):.{digits}f}$"
    low, high = _ends(row, column)
    return f"{mean}$" + ("" if low == high else f" (${low}$ to ${high}$)")


def _cell(row: Mapping[Any, Any], column: str) -> str:
    factor, digits, unit = _shown(column)
    if pd.isna(row[column]):
        return ""
    shown = f"{factor * row[column]:,.{digits}f}{unit}"
    if row["n"] >= FEW_SEEDS and not pd.isna(row.get(f"{column}_low")):
        low, high = (factor * row[f"{column}_{end}"] for end in ("low", "high"))
        return f"{shown} <small>[{low:,.{digits}f}, {high:,.{digits}f}]</small>"
    low, high = _ends(row, column)
    return shown if low == high else f"{shown} <small>{low} to {high}</small>"


def _ends(row: Mapping[Any, Any], column: str) -> tuple[str, str]:
    """Return the minimum and the maximum over the seeds, as shown; the same text twice if they are not known."""
    factor, digits, _ = _shown(column)
    ends = [row.get(f"{column}_{end}", row[column]) for end in ("least", "most")]
    low, high = (f"{factor * (row[column] if pd.isna(end) else end):,.{digits}f}" for end in ends)
    return low, high


def _shown(column: str) -> tuple[float, int, str]:
    """Return the factor, the number of decimals and the unit with which a column is shown."""
    if column == "peak_memory_bytes":
        return 2**-20, 0, ""
    if column == "optimizer_state_bytes":
        return 2**-20, 2, ""
    if column in ("num_trained", "num_touched"):
        return 1, 0, ""
    if column in ("source_nll_after", "source_kl"):
        return 1, 3, ""
    if column in ("train_s", "source_perplexity_after"):
        return 1, 1, ""
    if column == "tokens_per_s":
        return 1, 0, ""
    if column == "gflops_a_step":
        return 1, 2, ""
    return (1000, 2, "") if column.endswith("_s") else (100, 1, " %")
