"""Functions for notebooks: open a study by its name, and show its figures and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from transformers.utils import logging

from gmt.errors import UserError
from gmt.records.answers import answers_of, flips_of
from gmt.records.record import RunRecord
from gmt.studies.opened import planned
from gmt.studies.primary_faults import faults_of_primary
from gmt.verdicts.words import difference as in_words
from gmt_analysis.choices import CHOICE, choice_name
from gmt_analysis.cost_words import costs_in_words
from gmt_analysis.costs import cost_ratios
from gmt_analysis.figures import SCORES
from gmt_analysis.primary import primary_verdicts
from gmt_analysis.rendering import as_svg
from gmt_analysis.results import Results
from gmt_analysis.statistics import summarise


def open_study(
    study: str, overrides: Sequence[str] = (), config_dir: str | None = None, *, dirty: bool = False
) -> Results:
    """Return the results of a study, from the run records below `record.root` of this folder.

    Args:
        study: the name of the study, as in `study=NAME` on the command line.
        overrides: the overrides that the study was swept with.
        config_dir: a config folder of your own.
        dirty: whether runs of a checkout with uncommitted changes count.

    Raises:
        UserError: there is no such study, or no run of it is done.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one for each model that is loaded
    plan, _ = planned([f"study={study}", *overrides], config_dir, leave_out=True)
    return Results(plan, dirty=dirty)


@dataclass(frozen=True)
class Figures:
    """Figures as a notebook shows them."""

    figures: Sequence[Figure]

    def _repr_html_(self) -> str:
        return "".join(f"<div>{as_svg(figure)}</div>" for figure in self.figures)


@dataclass(frozen=True)
class Sentences:
    """Sentences as a notebook shows them."""

    sentences: Sequence[str]

    def _repr_markdown_(self) -> str:
        return "\n".join(f"- {sentence}" for sentence in self.sentences) or "- Nothing."


def show(figures: Iterable[Figure]) -> Figures:
    """Return figures that a notebook shows one below the other."""
    return Figures(list(figures))


def recut(results: Results, query: str) -> pd.DataFrame:
    """Return the mean scores of the runs for which a query of pandas holds, e.g. `seed <= 3 and task == "sums"`."""
    means = summarise(results.table.query(query), [score.column for score in SCORES])
    columns = [f"{score.column}{end}" for score in SCORES for end in ("", "_low", "_high")]
    return means[[*CHOICE, "n", *columns]].rename(columns={"axis": results.axis.name})


def ask(results: Results, **settings: Any) -> Sentences:
    """Answer a question that the study did not declare; the answer is exploratory.

    Args:
        results: the results of the study.
        settings: as in `study.primary.NAME`: measure, claim, arms, against, tasks; `margin` is the study's by default.

    Raises:
        UserError: a setting is wrong.
    """
    study = replace(results.plan.study, primary={"exploratory": {"tasks": "apart", **settings}}, looks=())
    runs = [(planned.point, planned.run.config) for planned in results.plan.comparison]
    if faults := faults_of_primary(study, runs, typed=["seed"]):  # too few seeds: the answer says not tested
        raise UserError(*faults)
    (question,) = study.questions
    (verdict,) = primary_verdicts(results.table, [question], axis=results.axis)
    rows = [f"{row.decision}: {in_words(row)}" for row in verdict.comparisons]
    return Sentences([f"Exploratory. {verdict.sentence}", *rows])


def beside(results: Results, first: str, second: str, *, seed: int, task: str | None = None) -> pd.DataFrame:
    """Return the questions that one of two runs answers right and the other does not.

    Args:
        results: the results of the study.
        first, second: names of choices, e.g. `gmt 0.9` and `sft`.
        seed: the seed of both runs.
        task: the task of both runs; needed if the study has several.

    Raises:
        UserError: a name, the seed and the task do not identify one finished run.
    """
    answers = [answers_of(_record(results, choice, seed, task)) for choice in (first, second)]
    rows = [
        {
            "part": flip.key[0],
            "suite": flip.key[1],
            "prompt": flip.key[2],
            first: flip.answers[0],
            second: flip.answers[1],
        }
        | {"right": name}
        for name, flips in zip((first, second), flips_of(*answers), strict=True)
        for flip in flips
    ]
    return pd.DataFrame(rows, columns=["part", "suite", "prompt", first, second, "right"])


def _record(results: Results, choice: str, seed: int, task: str | None) -> RunRecord:
    table = results.table[(results.table["state"] == "done") & (results.table["seed"] == seed)]
    names = [choice_name(arm, value) for arm, value in zip(table["arm"], table["axis"], strict=True)]
    matching = table[[name == choice for name in names]]
    matching = matching if task is None else matching[matching["task"] == task]
    if len(matching) != 1:
        raise UserError(
            f"{choice}, seed {seed} and task {task} must name one finished run, got {len(matching)}; choices: "
            f"{', '.join(dict.fromkeys(names))}"
        )
    return next(planned.record for planned in results.done if planned.run.id == matching["run_id"].iloc[0])


def timing(results: Results) -> Sentences:
    """Return sentences on how the times of a study's runs were measured."""
    return Sentences(costs_in_words(results.table))


def cost_claim(results: Results, within: float) -> pd.DataFrame:
    """Return the test that a step takes as long as a step of the baseline, see `gmt_analysis.costs.cost_ratios`."""
    ratios = cost_ratios(results.costs_of_runs, results.plan.study.baseline, within=within)
    return ratios.rename(columns={"axis": results.axis.name})


def say(results: Results, column: str) -> Sentences:
    """Return the results of the exploratory tests on a measure: `target_after` or `forgetting`."""
    (findings,) = (findings for findings in results.findings if findings.measure.column == column)
    return Sentences(findings.sentences)
