"""`gmt report`: writes a study's report, and puts it on the sweep's parent run in MLflow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gmt.errors import UserError
from gmt.runs.build import settings_of
from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from gmt.studies.tracked import bring_level, describe, reported
from gmt.terminal import say
from gmt.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from gmt_analysis.report import Report


def report(overrides: Sequence[str], config_dir: str | None, *, dirty: bool, operations: bool) -> None:
    """Writes the report and names its files."""
    plan, config = planned(overrides, config_dir)
    if operations:
        from gmt.commands.diagnose import count_operations

        count_operations(plan)
    from gmt_analysis.report import write_report

    made = write_report(plan, dirty=dirty)
    for sentence in made.warnings:
        say(f"warning: {sentence}")
    say(f"report: {made.files[0]}")
    for path in made.files[1:]:
        say(f"        {path}")
    if _track(plan, config, made):
        say("The report is also on the sweep's parent run in MLflow: `gmt ui` opens the dashboard.")


def _track(plan: Plan, config: Mapping[str, Any], made: "Report") -> bool:
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    if tracking.uri is None:
        return False
    from gmt.tracking.mlflow_view import MlflowView

    try:
        view, text = MlflowView(tracking), describe(plan, reported(made.num_runs, made.sentences))
        if not view.description(plan.identity) and (lacking := bring_level(plan, view)):
            say(f"warning: MLflow lacks values of {len(lacking)} runs: {'; '.join(lacking)}")
        return view.log_report(plan.identity, made.files, made.figures, text) is not None
    except UserError as error:
        say(f"warning: the report is not in MLflow: {error}")
        return False
