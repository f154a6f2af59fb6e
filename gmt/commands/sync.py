"""`gmt sync`: brings MLflow up to date with run records, writes each value once, and rebuilds a lost store."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gmt.composition import Composer, hydra_on
from gmt.errors import RunFailed, UserError
from gmt.records.finding import find_record
from gmt.records.record import RunRecord
from gmt.runs.build import settings_of
from gmt.runs.settings import RecordSettings
from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from gmt.studies.tracked import write_missing
from gmt.terminal import say
from gmt.tracking.settings import TrackingSettings


def sync(arguments: Sequence[str], config_dir: str | None) -> None:
    """Writes what a study's records, or those of single runs, hold and MLflow does not.

    Args:
        arguments: ids of runs, or their first digits; and overrides, with `study=NAME` or without.
        config_dir: a config folder of the user's own, or None.

    Raises:
        UserError: nothing is named, nothing is tracked, or the store doesn't answer.
        RunFailed: the store did not take some run's values.
    """
    overrides = [each for each in arguments if "=" in each]
    runs = [each for each in arguments if "=" not in each]
    if any(each.startswith("study=") for each in overrides):
        if runs:
            raise UserError(f"gmt sync takes a study or single runs, got both study=... and {runs[0]}")
        plan, config = planned(overrides, config_dir, leave_out=True)
        _sync_study(plan, _tracking(config))
        return
    if not runs:
        raise UserError("gmt sync needs study=NAME, or the ids of single runs; `gmt help study` lists the studies")
    with hydra_on(config_dir):
        config = Composer().compose_plain(overrides)
    folder = settings_of("record", RecordSettings, config["record"]).runs
    _sync_runs([find_record(folder, run) for run in runs], _tracking(config))


def _tracking(config: Mapping[str, Any]) -> TrackingSettings:
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    if tracking.uri is None:
        raise UserError("gmt sync needs tracking.uri, got null (tracking=none)")
    return tracking


def _sync_study(plan: Plan, tracking: TrackingSettings) -> None:
    from gmt.tracking.mlflow_view import MlflowView

    begun = [planned.record for planned in plan.runs if planned.record.exists()]
    if not begun:
        raise UserError(f"study {plan.study.name} has no run record yet; run `gmt sweep` with it first")
    _warn(begun)
    _tell(write_missing(plan, MlflowView(tracking)), len(begun))


def _sync_runs(records: Sequence[RunRecord], tracking: TrackingSettings) -> None:
    from gmt.tracking.mirror import MirroredRun
    from gmt.tracking.missing import write_missing_records
    from gmt.tracking.mlflow_view import MlflowView

    view, items = MlflowView(tracking), []
    for record in records:
        science = record.read("config.json")["science"]
        method, task, seed = science["method"]["name"], science["task"]["name"], science["seed"]
        tags = {"gmt.method": str(method), "gmt.task": str(task), "gmt.seed": str(seed)}
        items.append(MirroredRun(record=record, name=f"{method} seed={seed}", tags=tags))
    _warn(records)
    _tell(write_missing_records(view, items, None), len(items))


def _warn(records: Iterable[RunRecord]) -> None:
    """Name each record that was changed since its run ended."""
    for record in records:
        if (sentence := record.change()) is not None:
            say(f"warning: {sentence}; MLflow keeps what it holds of it")


def _tell(faults: Sequence[str], number: int) -> None:
    if faults:
        raise RunFailed(f"MLflow lacks values of {len(faults)} of {number} runs: {'; '.join(faults)}")
    say(f"MLflow holds {number} run{'s' if number > 1 else ''} as the records do")
