"""A study's report: one self-contained HTML page, and the numbers behind it as CSV."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from PIL.Image import Image

from gmt.axis import Axis
from gmt.records.record import write_whole
from gmt.studies.plan import Plan
from gmt_analysis.choices import CHOICE
from gmt_analysis.cost_words import costs_in_words
from gmt_analysis.exports import as_csv
from gmt_analysis.figures import as_image, as_pdf, as_svg
from gmt_analysis.limits import limits, limits_of_tuning, tuned_in_words
from gmt_analysis.primary import primary_table
from gmt_analysis.results import BEFORE, Results
from gmt_analysis.statistics import CONFIDENCE
from gmt_analysis.tables import COSTS, SCORES, html_differences, html_table, latex_table

_NARROW = 72  # pixels an inch, of 96, down to which a figure shrinks to stand beside another


@dataclass(frozen=True, kw_only=True)
class Report:
    """The written report of a study.

    Args:
        files: the page first, then the numbers behind it as CSV and LaTeX, and its figures as PDF.
        figures: the figures as images, by name.
        sentences: the results of the tests in words.
        num_runs: the number of finished runs behind the numbers.
        warnings: sentences on runs that changed since they ended, and on runs by differing code.
    """

    files: Sequence[Path]
    figures: Mapping[str, Image]
    sentences: Sequence[str]
    num_runs: int
    warnings: Sequence[str]


def write_report(plan: Plan, *, dirty: bool = False) -> Report:
    """Write the report of a study from its run records; the report names the missing runs.

    Args:
        plan: of the study.
        dirty: whether runs of a checkout with uncommitted changes count.

    Raises:
        UserError: no run of the study is done, or none that counts.
    """
    results = Results(plan, dirty=dirty)
    figures = {
        "scores": results.score_figures(),
        "masks": results.mask_figures(),
        "costs": results.cost_figures(),
        "diagnostics": results.diagnostic_figures(),
    }
    folder = plan.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [part.to_baseline.assign(measure=part.measure.column) for part in results.findings]
    common = [part.in_common.assign(measure=part.measure.column) for part in results.findings]
    tables = {
        "runs.csv": results.runs,
        "means.csv": results.summary,
        "primary.csv": primary_table(results.verdicts),
        "differences.csv": pd.concat(pairs),
        "over_tasks.csv": pd.concat(common),
        "operations.csv": results.operations,
        **{f"diagnostic_{name}.csv": measured.rows for name, measured in results.diagnoses.items()},
    }
    texts = {"index.html": _page(results, figures), "means.tex": latex_table(results.summary, results.axis)}
    texts |= {name: as_csv(_for_files(rows, results.axis)) for name, rows in tables.items() if len(rows)}
    for name, text in texts.items():
        write_whole(folder / name, text)
    drawn = {name: figure for part in figures.values() for name, figure in part.items()}
    for name, figure in drawn.items():
        (folder / f"{name}.pdf").write_bytes(as_pdf(figure))
    return Report(
        files=[folder / name for name in (*texts, *(f"{name}.pdf" for name in drawn))],
        figures={name: as_image(figure) for name, figure in drawn.items()},
        sentences=[
            *(f"{verdict.question} {verdict.answer}" for verdict in results.verdicts),
            *(sentence for part in results.findings for sentence in part.sentences),
        ],
        num_runs=len(results.done),
        warnings=[*results.changed, *results.differing],
    )


def _for_files(rows: pd.DataFrame, axis: Axis) -> pd.DataFrame:
    """Return the rows with the column `axis` named after its setting, e.g. `rank`; with the group if that is taken."""
    name = axis.setting if axis.key in rows else axis.key
    return rows.rename(columns={"axis": name, "other_axis": f"other_{name}"})


def _page(results: Results, figures: Mapping[str, Mapping[str, Figure]]) -> str:
    plan, table, summary, axis = results.plan, results.table, results.summary, results.axis
    template = Environment(loader=PackageLoader("gmt_analysis", "."), autoescape=True).get_template("report.html.j2")
    return template.render(
        study=plan.study,
        axis=axis,
        made=time.strftime("%Y-%m-%d %H:%M"),
        figures={
            part: [(as_svg(figure), round(_NARROW * figure.get_figwidth())) for figure in drawn.values()]
            for part, drawn in figures.items()
        },
        baseline=results.findings[0].baseline,
        verdicts=results.verdicts,
        findings=[(f.measure.name, f.baseline, f.sentences, html_differences(f, axis)) for f in results.findings],
        margin=f"{100 * plan.study.margin:g}",
        base=_base(summary),
        scores=html_table(summary, SCORES, axis),
        costs=html_table(summary.merge(results.operations, on=CHOICE, how="left"), COSTS, axis),
        cost_words=costs_in_words(table),
        tuned=[tuned_in_words(tuned) for tuned in plan.tuned],
        limits=[
            *results.changed,
            *results.unverified,
            *results.differing,
            *(measured.differing for measured in results.diagnoses.values() if measured.differing is not None),
            *limits(table, summary),
            *limits_of_tuning(plan),
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
