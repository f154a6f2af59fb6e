"""`gmt report`: writes a study's report, and puts it on the sweep's parent run in MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmt.commands.plan import planned
from gmt.commands.terminal import say
from gmt.errors import UserError
from gmt.runs.build import settings_of
from gmt.studies.plan import Plan
from gmt.studies.sweep import sweep_identity
from gmt.tracking.settings import TrackingSettings


def report(overrides: Sequence[str], config_dir: str | None) -> None:
    """Writes the report and names its files."""
    plan, config = planned(overrides, config_dir)
    from gmt_analysis.report import write_report

    files = write_report(plan)
    say(f"report: {files[0]}")
    for path in files[1:]:
        say(f"        {path}")
    if _track(plan, config, files):
        say("The report is also on the sweep's parent run in MLflow: open the dashboard with `gmt ui`.")


def _track(plan: Plan, config: Mapping[str, Any], files: Sequence[Path]) -> bool:
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    if tracking.uri is None:
        return False
    from gmt.tracking.mlflow_view import MlflowView

    try:
        return MlflowView(tracking).log_report(sweep_identity(plan), files) is not None
    except UserError as error:
        say(f"warning: the report is not in MLflow: {error}")
        return False
