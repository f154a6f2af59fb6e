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

# Between two collections of garbage: most objects of a report are the libraries', which collections look through again
# and again, a tenth of its time.
_MANY_OBJECTS = 100_000


def report(overrides: Sequence[str], config_dir: str | None, *, dirty: bool, operations: bool) -> None:
    """Write the report and print its files."""
    gc.set_threshold(_MANY_OBJECTS)
    with progress_line("report") as stage:
        stage("planning the study")
        plan, config = planned(overrides, config_dir, leave_out=True)
    if operations:
        from gmt.commands.diagnose import count_operations

        count_operations(plan)
    with progress_line(f"report of study {plan.study.name}") as stage:
        stage("loading the analysis")
        from gmt_analysis.report import write_report

        report = write_report(plan, dirty=dirty, overrides=_to_type(overrides, config_dir), say=stage)
    with progress_line(f"report of study {plan.study.name}: MLflow") as stage:
        is_tracked = _track(plan, config, report, stage)
    say_result(report.results)
    say(f"\nreport: {report.files[0]}")
    say(f"        beside it {len(report.files) - 1} files: CSV, LaTeX and PDF")
    if is_tracked:
        say("The report is also on the sweep's parent run in MLflow: `gmt ui` opens the dashboard.")


def _to_type(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Return the words that name the study on a command line; without secrets, which the user knows."""
    return [*without_secrets(overrides), *([] if config_dir is None else ["--config-dir", config_dir])]


def _track(plan: Plan, config: Mapping[str, Any], report: "Report", stage: Callable[[str], None]) -> bool:
    """Put the report on the sweep's parent run in MLflow; return whether it is there.

    Args:
        plan: the study's plan.
        config: the study's resolved config.
        report: of the study.
        stage: shows the name of a stage when it begins.
    """
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    if tracking.uri is None:
        return False
    from gmt_analysis.rendering import as_image

    from gmt.tracking.mlflow_view import MlflowView

    try:
        view = MlflowView(tracking)
        if not view.description(plan.identity) and (lacking := write_missing(plan, view)):
            say(f"warning: MLflow lacks values of {len(lacking)} runs: {'; '.join(lacking)}")
        stage("drawing its figures")
        images = {name: as_image(figure) for name, figure in report.figures.items()}
        stage("sending it")
        view.log_report(plan.identity, report.files, images)
        return put_result(view, report.results)
    except UserError as error:
        say(f"warning: the report is not in MLflow: {error}")
        return False
