"""`gmt report`: writes a study's report, and puts it on the sweep's parent run in MLflow."""

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gmt.commands.means import put_result, say_result
from gmt.credentials import without_secrets
from gmt.errors import UserError
from gmt.runs.build import settings_of
from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from gmt.studies.tracked import write_missing
from gmt.terminal import progress_line, say
from gmt.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from gmt_analysis.report import Report

# New objects between two collections of garbage. With Python's default, a tenth of a report's time goes into
# collections, which search the objects of the imported libraries again and again.
_OBJECTS_PER_COLLECTION = 100_000


def report(overrides: Sequence[str], config_dir: str | None, *, dirty: bool, operations: bool) -> None:
    """Write a study's report, put it into MLflow, and print the result and the report's path.

    Args:
        overrides: the user's overrides.
        config_dir: a config folder of the user's own, or None.
        dirty: whether to take runs of code that was not committed.
        operations: whether to count the floating-point operations first.

    Raises:
        UserError: the study is wrong, or has no finished run.
    """
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    with progress_line("report") as stage:
        stage("planning the study")
        plan, config = planned(overrides, config_dir, leave_out=True)
    if operations:
        from gmt.commands.diagnose import count_operations

        count_operations(plan)
    with progress_line(f"report of study {plan.study.name}") as stage:
        stage("loading the analysis")
        from gmt_analysis.report import write_report

        report = write_report(plan, dirty=dirty, overrides=_study_words(overrides, config_dir), say=stage)
    with progress_line(f"report of study {plan.study.name}: MLflow") as stage:
        is_tracked = _track(plan, config, report, stage)
    say_result(report.results)
    say(f"\nreport: {report.files[0]}")
    say(f"        beside it {len(report.files) - 1} files: CSV, LaTeX and PDF")
    if is_tracked:
        say("The report is also on the sweep's parent run in MLflow: `gmt ui` opens the dashboard.")


def _study_words(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Return the words that name the study on a command line, without secrets: the report shows them."""
    return [*without_secrets(overrides), *([] if config_dir is None else ["--config-dir", config_dir])]


def _track(plan: Plan, config: Mapping[str, Any], report: "Report", stage: Callable[[str], None]) -> bool:
    """Put the report on the sweep's parent run in MLflow; return whether that run now has it.

    Args:
        plan: the study's plan.
        config: the study's resolved config.
        report: the study's report.
        stage: a function that shows the name of a stage when the stage begins.
    """
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    if tracking.uri is None:
        return False
    from gmt_analysis.rendering import as_image

    from gmt.tracking.mlflow_view import MlflowView

    try:
        view = MlflowView(tracking)
        if not view.description(plan.identity) and (faults := write_missing(plan, view)):
            say(f"warning: MLflow lacks values of {len(faults)} runs: {'; '.join(faults)}")
        stage("drawing its figures")
        images = {name: as_image(figure) for name, figure in report.figures.items()}
        stage("sending it")
        view.log_report(plan.identity, report.files, images)
        return put_result(view, report.results)
    except UserError as error:
        say(f"warning: the report is not in MLflow: {error}")
        return False
