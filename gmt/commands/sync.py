"""`gmt sync`: writes to MLflow the values of run records that MLflow lacks; if its store was lost, all values."""

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
    """Write to MLflow the values that MLflow lacks, from the records of a study or of single runs.

    Args:
        arguments: ids of runs, or their first digits; and overrides, with `study=NAME` or without.
        config_dir: a config folder of the user's own, or None.

    Raises:
        UserError: neither a study nor a run is named, or both are; `tracking.uri` is null; no record exists; or the
            store does not answer.
        RunFailed: MLflow still lacks values of some runs.
    """
    overrides = [text for text in arguments if "=" in text]
    runs = [text for text in arguments if "=" not in text]
    if any(text.startswith("study=") for text in overrides):
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

    records = [planned.record for planned in plan.runs if planned.record.exists()]
    if not records:
        raise UserError(f"study {plan.study.name} has no run record yet; run `gmt sweep` with it first")
    _warn_of_changes(records)
    _conclude(write_missing(plan, MlflowView(tracking)), len(records))


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
    _warn_of_changes(records)
    _conclude(write_missing_records(view, items, None), len(items))


def _warn_of_changes(records: Iterable[RunRecord]) -> None:
    """Print a warning for each record that was changed after its run ended."""
    for record in records:
        if (sentence := record.change()) is not None:
            say(f"warning: {sentence}; MLflow's values of this run are not changed")


def _conclude(faults: Sequence[str], num_runs: int) -> None:
    """Print that MLflow has all values; raise RunFailed if any are missing."""
    if faults:
        raise RunFailed(f"MLflow lacks values of {len(faults)} of {num_runs} runs: {'; '.join(faults)}")
    say(f"MLflow holds {num_runs} run{'s' if num_runs > 1 else ''} as the records do")
