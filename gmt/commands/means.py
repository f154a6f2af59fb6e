"""Prints the result of a study, its means and its answer: for `gmt show study=NAME`, a sweep and a report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from gmt.studies.tracked import describe, reported
from gmt.terminal import say
from gmt.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from gmt_analysis.results import Results

    from gmt.tracking.mlflow_view import MlflowView

_MAX_SHOWN = 12  # warnings, and choices of a task besides the baseline, after a sweep or a report


def show_study(overrides: Sequence[str], config_dir: str | None, *, dirty: bool) -> None:
    """Print every mean of a study and its answer: `gmt show study=NAME`.

    Raises:
        UserError: the study is wrong, or has no finished run.
    """
    from gmt_analysis.results import Results

    plan, _ = planned(overrides, config_dir, leave_out=True)
    results = Results(plan, dirty=dirty)
    say(f"study {plan.study.name}: {plan.study.question.strip()}\n")
    say_result(results, max_choices=None)


def conclude(plan: Plan, tracking: TrackingSettings) -> None:
    """Print the means and the answer of a study after its sweep, and put them on its page in MLflow.

    Args:
        plan: the study's plan; if none of its finished runs counts, only a line with the reason is printed.
        tracking: the settings of MLflow.
    """
    from gmt_analysis.results import Results

    try:
        results = Results(plan)
    except UserError as error:  # e.g. all runs are of a checkout with uncommitted changes
        say(f"no means: {error}")
        return
    say("")
    say_result(results)
    if tracking.uri is None:
        return
    from gmt.tracking.mlflow_view import MlflowView

    try:
        put_result(MlflowView(tracking), results)
    except UserError as error:
        say(f"warning: the result is not in MLflow: {error}")


def put_result(view: "MlflowView", results: "Results") -> bool:
    """Put a study's result on its parent run in MLflow; return whether that run exists.

    Args:
        view: the view of MLflow's store.
        results: the study's results.

    Raises:
        UserError: the store doesn't answer.
    """
    from gmt_analysis.leading import leading_sentences
    from gmt_analysis.means_text import means_by_step, means_markdown

    plan, means = results.plan, means_by_step(results)
    charts = (
        f"The metrics `mean/...` are these means. The step of their charts is the {results.axis.name}: the value if "
        "all values are whole numbers, else the percentage if all percentages are, else the rank, from 1 for the "
        "lowest.\n\n"
    )
    warnings = [f"Warning: {sentence}" for sentence in results.warnings]
    if len(warnings) > _MAX_SHOWN:
        warnings[_MAX_SHOWN:] = [f"`gmt show study={plan.study.name}` prints all {len(warnings)} warnings."]
    answer = "\n\n".join([*leading_sentences(results), *warnings, means_markdown(results, _MAX_SHOWN)])
    tests = reported(len(results.done), [sentence for findings in results.findings for sentence in findings.sentences])
    text = f"{answer}\n\n{charts if means else ''}{tests}"
    view.log_means(plan.identity, means)
    return view.log_result(plan.identity, describe(plan, text))


def say_result(results: "Results", max_choices: int | None = _MAX_SHOWN) -> None:
    """Print a study's means, best target score first, its answer, and its warnings.

    Args:
        results: the study's results.
        max_choices: the largest number of choices of a task that are printed besides the baseline; None for all.
    """
    from gmt_analysis.leading import leading_sentences
    from gmt_analysis.means_text import means_text

    say(means_text(results, max_choices) + "\n")
    for sentence in leading_sentences(results):
        say(sentence)
    for sentence in results.warnings:
        say(f"warning: {sentence}")
