"""A study's report: one self-contained HTML page, and the numbers behind it as CSV."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from gmt.axis import Axis
from gmt.records.record import write_whole
from gmt.removal import remove
from gmt.studies.plan import Plan
from gmt.studies.tuning_noise import noise_of
from gmt.studies.tuning_words import resampled_in_words, tuned_in_words
from gmt.verdicts.question import LEVEL
from gmt_analysis.choices import CHOICE, FEW_SEEDS, ranges_of
from gmt_analysis.cost_words import costs_in_words
from gmt_analysis.exports import as_csv
from gmt_analysis.leading import leading_sentences
from gmt_analysis.limits import limits, limits_of_tuning
from gmt_analysis.mask_figures import density_in_words
from gmt_analysis.primary import primary_table
from gmt_analysis.rendering import as_pdf, as_svg
from gmt_analysis.report_figures import (
    cost_figures,
    diagnostic_figures,
    frontier_figures,
    has_curves,
    loss_figures,
    mask_figures,
    score_figures,
)
from gmt_analysis.results import BEFORE, Results
from gmt_analysis.sample_answers import sample_answers
from gmt_analysis.set_up import set_up
from gmt_analysis.statistics import CONFIDENCE
from gmt_analysis.suites import means_by_suite
from gmt_analysis.tables import (
    COSTS,
    MOST_COMPARISONS,
    SCORES,
    html_comparisons,
    html_differences,
    html_matched,
    html_suites,
    html_table,
    html_variation,
    latex_table,
)

_NARROW = 72  # pixels an inch: figures may shrink to this, from 96, so that two fit side by side
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The written report of a study.

    Args:
        files: the page first, then the numbers behind it as CSV and LaTeX, and its figures as PDF.
        figures: the figures, by name.
        results: the numbers.
    """

    files: Sequence[Path]
    figures: Mapping[str, Figure]
    results: Results


def write_report(
    plan: Plan, *, dirty: bool = False, overrides: Sequence[str] = (), say: Say = lambda stage: None
) -> Report:
    """Write the report of a study from its run records; the report names the missing runs.

    Args:
        plan: the study's plan.
        dirty: whether runs of a checkout with uncommitted changes count.
        overrides: the overrides of the command, which the commands on the page repeat.
        say: called with the name of each stage of the work.

    Raises:
        UserError: no run of the study is done, or none that counts.
    """
    say(f"reading {len(plan.comparison)} runs")
    results = Results(plan, dirty=dirty)
    say("comparing arms")
    tables = _tables(results)
    say("making figures")
    figures = {
        "frontier": frontier_figures(results),
        "scores": score_figures(results),
        "costs": cost_figures(results),
        "masks": mask_figures(results),
        "diagnostics": diagnostic_figures(results),
        "loss": loss_figures(results),
    }
    drawn = {name: figure for part in figures.values() for name, figure in part.items()}
    svgs, pdfs = {}, {}
    for number, (name, figure) in enumerate(drawn.items(), start=1):
        say(f"drawing figure {number} of {len(drawn)}")
        svgs[name], pdfs[name] = as_svg(figure), as_pdf(figure)
    shown = {
        part: [(svgs[name], round(_NARROW * figure.get_figwidth())) for name, figure in by_name.items()]
        for part, by_name in figures.items()
    }
    say("writing files")
    summary = _with_ranges(results)
    texts = {
        "index.html": _page(results, summary, shown, overrides),
        "means.tex": latex_table(summary, results.axis),
    }
    texts |= {name: as_csv(_for_files(rows, results.axis)) for name, rows in tables.items() if len(rows)}
    return Report(
        files=_write(plan.folder / "report", texts, pdfs),
        figures=drawn,
        results=results,
    )


def _tables(results: Results) -> dict[str, pd.DataFrame]:
    """Return the tables of the CSV files."""
    pairs = [part.to_baseline.assign(measure=part.measure.column) for part in results.findings]
    common = [part.in_common.assign(measure=part.measure.column) for part in results.findings]
    between = [part.between.assign(measure=part.measure.column) for part in results.findings]
    return {
        "runs.csv": results.runs,
        "means.csv": results.summary,
        "primary.csv": primary_table(results.verdicts),
        "suites.csv": results.suites,
        "frontier.csv": results.frontier.matched,
        "differences.csv": pd.concat(pairs),
        "over_tasks.csv": pd.concat(common),
        "between_arms.csv": pd.concat(between),
        "variation.csv": results.variation,
        "costs.csv": results.costs,
        "operations.csv": results.operations,
        **{f"diagnostic_{name}.csv": measured.rows for name, measured in results.diagnoses.items()},
    }


def _write(folder: Path, texts: Mapping[str, str], pdfs: Mapping[str, bytes]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.pdf"):
        if old.stem not in pdfs:
            remove(old, folder)  # a figure of an earlier report would show other runs than the page
    for name, text in texts.items():
        write_whole(folder / name, text)
    for name, content in pdfs.items():
        (folder / f"{name}.pdf").write_bytes(content)
    return [folder / name for name in (*texts, *(f"{name}.pdf" for name in pdfs))]


def _for_files(rows: pd.DataFrame, axis: Axis) -> pd.DataFrame:
    """Return the rows with the column `axis` named after its setting, e.g. `rank`; with the group if that is taken."""
    name = axis.setting if axis.key in rows else axis.key
    return rows.rename(columns={"axis": name, "other_axis": f"other_{name}"})


def _with_ranges(results: Results) -> pd.DataFrame:
    """Return the means, best target first, with the minimum and the maximum over the seeds."""
    ranges = ranges_of(results.table, list(SCORES))
    order = {task: number for number, task in enumerate(dict.fromkeys(results.summary["task"]))}
    summary = results.summary.merge(ranges, on=CHOICE, how="left").assign(place=results.summary["task"].map(order))
    return summary.sort_values(["place", "target_after"], ascending=[True, False])


def _page(
    results: Results,
    summary: pd.DataFrame,
    figures: Mapping[str, Sequence[tuple[str, int]]],
    overrides: Sequence[str],
) -> str:
    plan, axis = results.plan, results.axis
    resamplings = [noise_of(tuned) for tuned in plan.tuned]
    template = Environment(loader=PackageLoader("gmt_analysis", "."), autoescape=True).get_template("report.html.j2")
    costs = results.costs.merge(results.operations, on=CHOICE, how="left")
    means = means_by_suite(results.suites).merge(summary[[*CHOICE, "place", "target_after"]], on=CHOICE)
    means = means.sort_values(["place", "target_after"], ascending=[True, False], kind="stable")
    return template.render(
        study=plan.study,
        axis=axis,
        made=time.strftime("%Y-%m-%d %H:%M"),
        answer=leading_sentences(results),
        figures=figures,
        baseline=results.findings[0].baseline,
        **_tests(results),
        num_choices=len(summary),
        margin=f"{100 * plan.study.margin:g}",
        missing=results.missing,
        base=_base(summary),
        frontier=results.frontier,
        matched=html_matched(results.frontier),
        scores=html_table(summary, SCORES, axis),
        suites=[(task, html_suites(rows, axis)) for task, rows in means.groupby("task", sort=False)],
        costs=html_table(costs, COSTS, axis),
        cost_words=costs_in_words(results.table),
        density=density_in_words(results.table),
        tuned=[tuned_in_words(tuned, resampling) for tuned, resampling in zip(plan.tuned, resamplings, strict=True)],
        resampled=resampled_in_words(resamplings),
        limits=[
            *results.warnings,
            *results.unverified,
            *(measured.differing for measured in results.diagnoses.values() if measured.differing is not None),
            *limits(results.table, summary),
            *limits_of_tuning(plan),
        ],
        few=FEW_SEEDS,
        fewest=summary["n"].min(),
        most_seeds=summary["n"].max(),
        has_curves=has_curves(results.frontier.points),
        has_intervals=bool(results.frontier.matched["difference_low"].notna().any()),
        most=MOST_COMPARISONS,
        confidence=f"{CONFIDENCE:.0%}",
        level=f"{100 * LEVEL:g}",
        set_up=set_up(results, overrides),
        samples=sample_answers(results),
        environment=_environment(results),
    )


def _tests(results: Results) -> dict[str, Any]:
    """Return the parts of the section on tests."""
    axis, variation = results.axis, results.variation
    return {
        "verdicts": [(verdict, html_comparisons(verdict)) for verdict in results.verdicts],
        "findings": [(f.measure.name, f.sentences, html_differences(f, axis)) for f in results.findings],
        "variation": [
            (f.measure.name, html_variation(rows, axis))
            for f in results.findings
            if len(rows := variation[variation["measure"] == f.measure.column])
        ],
        "draws": results.draws,
        "has_tasks": any(len(f.in_common) for f in results.findings),
        "num_diverged": int((results.table["state"] == "diverged").sum()),
    }


def _base(summary: pd.DataFrame) -> list[str]:
    lines = []
    for task, group in summary.groupby("task", sort=False):
        target, source, perplexity = (group[column].mean() for column in BEFORE)
        texts = "" if pd.isna(perplexity) else f", perplexity of source texts {perplexity:.1f}"
        lines.append(f"{task}: target {target:.1%}, source {source:.1%}{texts}")
    return lines


def _environment(results: Results) -> Sequence[str]:
    """Return machine, versions and commit of the runs; several lines if these differ."""
    hardware = results.table.set_index("run_id")["hardware"]
    lines: dict[str, None] = {}
    for planned in results.done:
        recorded = planned.record.read("environment.json")
        versions = ", ".join(f"{name} {recorded['versions'][name]}" for name in ("gmt-lab", "torch", "transformers"))
        commit = f"commit {(recorded['commit'] or 'none')[:12]}{' (dirty)' if recorded['dirty'] else ''}"
        lines[f"{hardware[planned.run.id]}; {versions}; {commit}"] = None
    return list(lines)
