"""A study's report: one self-contained HTML page, and the numbers behind it as CSV."""

import html
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from PIL.Image import Image

from gmt.records.record import write_whole
from gmt.studies.plan import Plan, Tuned
from gmt.tracking.table import left_out
from gmt_analysis.comparison import CHOICE, POWER
from gmt_analysis.cost_words import costs_in_words
from gmt_analysis.exports import as_csv, as_latex
from gmt_analysis.figures import as_image, as_pdf, as_svg
from gmt_analysis.findings import Findings, as_table
from gmt_analysis.results import BEFORE, Results
from gmt_analysis.statistics import CONFIDENCE

_FEW_SEEDS = 5
_NARROW = 72  # pixels an inch, of 96, down to which a figure shrinks to stand beside another
_SMALL_MODEL = 1_000_000_000
_CHOICES = dict(zip(CHOICE, ("Arm", "Task", "Mask ratio"), strict=True))
_SCORES = {
    "target_after": "Target, exact match",
    "forgetting": "Forgetting (source before - after)",
    "source_perplexity_after": "Perplexity of source texts",
    "density": "Density kept",
    "moved_fraction": "Moved fraction",
}
_COSTS = {
    "forward_backward_s": "Forward + backward, ms/step",
    "mask_s": "Mask, ms/step",
    "optimizer_s": "Optimizer, ms/step",
    "tokens_per_s": "Tokens/s in steps",
    "train_s": "Training steps, s/run",
    "peak_memory_bytes": "Peak memory, MiB",
    "gflops_a_step": "Operations, 10⁹/step",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written of a study.

    Args:
        files: the page first, then the numbers behind it as CSV and LaTeX, and its figures as PDF.
        figures: the figures as images, by name.
        sentences: what the tests say.
        num_runs: of how many finished runs.
        warnings: on runs that were changed since they ended, and on those that were made by differing code.
    """

    files: Sequence[Path]
    figures: Mapping[str, Image]
    sentences: Sequence[str]
    num_runs: int
    warnings: Sequence[str]


def write_report(plan: Plan, *, dirty: bool = False, operations: bool = False) -> Report:
    """Writes the report of a study from its run records; what is missing is said in it.

    Args:
        plan: of the study.
        dirty: whether runs of a checkout with uncommitted changes count.
        operations: whether those of a step of each choice are counted now; what was counted before is shown anyway.

    Raises:
        UserError: no run of the study is done, or none that counts.
    """
    results = Results(plan, dirty=dirty)
    if operations:
        results.count_operations()
    figures = {
        "scores": results.score_figures(),
        "masks": results.mask_figures(),
        "costs": results.cost_figures(),
    }
    folder = plan.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [found.to_baseline.assign(measure=found.measure.column) for found in results.findings]
    common = [found.in_common.assign(measure=found.measure.column) for found in results.findings]
    tables = {
        "runs.csv": results.runs,
        "means.csv": results.summary,
        "differences.csv": pd.concat(pairs),
        "over_tasks.csv": pd.concat(common),
        "drops.csv": results.drops,
        "operations.csv": results.operations,
    }
    texts = {"index.html": _page(results, figures), "means.tex": _latex(results.summary)}
    texts |= {name: as_csv(rows) for name, rows in tables.items() if len(rows)}
    for name, text in texts.items():
        write_whole(folder / name, text)
    drawn = {name: figure for part in figures.values() for name, figure in part.items()}
    for name, figure in drawn.items():
        (folder / f"{name}.pdf").write_bytes(as_pdf(figure))
    return Report(
        files=[folder / name for name in (*texts, *(f"{name}.pdf" for name in drawn))],
        figures={name: as_image(figure) for name, figure in drawn.items()},
        sentences=[sentence for found in results.findings for sentence in found.sentences],
        num_runs=len(results.done),
        warnings=[*results.changed, *results.differing],
    )


def _page(results: Results, figures: Mapping[str, Mapping[str, Figure]]) -> str:
    plan, table, summary = results.plan, results.table, results.summary
    template = Environment(loader=PackageLoader("gmt_analysis", "."), autoescape=True).get_template("report.html.j2")
    return template.render(
        study=plan.study,
        made=time.strftime("%Y-%m-%d %H:%M"),
        figures={
            part: [(as_svg(figure), round(_NARROW * figure.get_figwidth())) for figure in drawn.values()]
            for part, drawn in figures.items()
        },
        findings=[(f.measure.name, f.sentences, _differences(f)) for f in results.findings],
        margin=f"{100 * plan.study.margin:g}",
        base=_base(summary),
        scores=_html_table(summary, _SCORES),
        costs=_html_table(summary.merge(results.operations, on=CHOICE, how="left"), _COSTS),
        cost_words=costs_in_words(table),
        tuned=[_in_words(tuned) for tuned in plan.tuned],
        limits=[
            *results.changed,
            *results.unverified,
            *results.differing,
            *_limits(table, summary),
            *_limits_of_tuning(plan),
        ],
        confidence=f"{CONFIDENCE:.0%}",
        environment=_environment(results),
    )


def _base(summary: pd.DataFrame) -> list[str]:
    lines = []
    for task, group in summary.groupby("task", sort=False):
        target, source, perplexity = (group[column].mean() for column in BEFORE)
        texts = "" if pd.isna(perplexity) else f", perplexity of source texts {perplexity:.1f}"
        lines.append(f"{task}: target {target:.1%}, source {source:.1%}{texts}")
    return lines


def _html_table(summary: pd.DataFrame, columns: Mapping[str, str]) -> str:
    columns = {column: name for column, name in columns.items() if summary[column].notna().any()}
    body = "".join(
        "<tr>"
        + "".join(f"<td>{_text(row[column])}</td>" for column in _CHOICES)
        + f"<td>{row['n']}</td>"
        + "".join(f"<td>{_cell(row, column)}</td>" for column in columns)
        + "</tr>"
        for _, row in summary.iterrows()
    )
    return _html((*_CHOICES.values(), "n", *columns.values()), body)


def _differences(found: Findings) -> list[tuple[str, str]]:
    """Tables of differences to the baseline: what they are of, and the table."""
    rows = {
        "on each task": (found.to_baseline, _CHOICES),
        "over all tasks": (found.in_common, {"choice": "Arm, ratio"}),
    }
    return [(name, _table_of(as_table(own, found.measure), heads)) for name, (own, heads) in rows.items() if len(own)]


def _table_of(rows: pd.DataFrame, heads: Mapping[str, str]) -> str:
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


def _latex(summary: pd.DataFrame) -> str:
    """The scores as a table of booktabs: means with the half width of their t interval."""
    columns = {c: name for c, name in _SCORES.items() if summary[c].notna().any()}
    rows = [
        [
            as_latex(row["arm"]),
            as_latex(row["task"]),
            "" if pd.isna(row["mask_ratio"]) else f"{row['mask_ratio']:g}",
            row["n"],
        ]
        + [_plus_minus(row, column) for column in columns]
        for row in summary.to_dict("records")
    ]
    heads = ["Arm", "Task", "Mask ratio", "n", *(_with_unit(column, name) for column, name in columns.items())]
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
    if column in ("train_s", "source_perplexity_after"):
        return 1, 1, ""
    if column == "tokens_per_s":
        return 1, 0, ""
    if column == "gflops_a_step":
        return 1, 2, ""
    return (1000, 2, "") if column.endswith("_s") else (100, 1, " %")


def _in_words(tuned: Tuned) -> str:
    found = "not found yet" if tuned.best is None else f"{tuned.best:g}"
    searched = f"{tuned.num_done} of {tuned.num_runs} runs between {tuned.low:g} and {tuned.high:g}"
    return f"{tuned.label}: {tuned.setting} {found}, by {searched}"


def _limits_of_tuning(plan: Plan) -> list[str]:
    if not plan.tuned:
        return ["The learning rate is the same for every arm and was not tuned for each."]
    limits = []
    if waiting := [tuned.label for tuned in plan.tuned if tuned.best is None]:
        limits.append(f"Not compared yet, since still being tuned: {', '.join(waiting)}.")
    if at_end := [tuned.label for tuned in plan.tuned if tuned.is_at_an_end]:
        limits.append(
            f"The best {plan.tuned[0].setting} lies at an end of the interval that was searched, and a better one may "
            f"lie beyond it: {', '.join(at_end)}."
        )
    return limits


def _limits(table: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """What the study can't say, from its own numbers."""
    limits = []
    if missing := left_out(table):
        limits.append(f"{missing}.")
    if (fewest := int(summary["n"].min())) < _FEW_SEEDS:
        limits.append(
            f"Some arm has {fewest} seed{'s' if fewest > 1 else ''}: the intervals are wide, and only large "
            "differences could have been seen."
        )
    if (largest := int(table["num_parameters"].max())) < _SMALL_MODEL:
        limits.append(
            f"The model has {largest:,} parameters. The claims of the GMT paper are about models of billions; nothing "
            "here confirms or refutes them at that size."
        )
    if summary["task"].nunique() == 1:
        limits.append("There is one task: what holds for it need not hold for others.")
    limits.append(
        "Masking the gradient is not a sparse update: momentum moves masked entries too, as the moved fraction shows."
    )
    if table["dirty"].fillna(False).any():
        limits.append("Some runs were made from a checkout with uncommitted changes.")
    return limits


def _environment(results: Results) -> Sequence[str]:
    """On what the runs ran; several lines if they ran on several machines."""
    hardware = results.table.set_index("run_id")["hardware"]
    lines: dict[str, None] = {}
    for planned in results.done:
        e = planned.record.read("environment.json")
        versions = ", ".join(f"{p} {e['versions'][p]}" for p in ("gmt-lab", "torch", "transformers"))
        commit = f"commit {(e['commit'] or 'none')[:12]}{' (dirty)' if e['dirty'] else ''}"
        lines[f"{hardware[planned.run.id]}; {versions}; {commit}"] = None
    return list(lines)
