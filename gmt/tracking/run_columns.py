"""The columns that identify a run in tables with several rows for each run. Imports no MLflow."""

from collections.abc import Mapping
from typing import Any

from gmt.axis import Axis, seed_of
from gmt.records.record import RunRecord

# Column -> pandas dtype. `axis` is the value of the study's axis; missing if the run does not have the setting.
RUN_COLUMNS: Mapping[str, str] = {
    "run_id": "string",
    "arm": "string",
    "task": "string",
    "axis": "Float64",
    "seed": "Int64",
}


def run_columns(arm: str, record: RunRecord, axis: Axis) -> dict[str, Any]:
    """Return the values of RUN_COLUMNS for a run.

    Args:
        arm: the run's arm.
        record: the run's record.
        axis: the study's axis.
    """
    stored = record.read("config.json")
    return {
        "run_id": record.id,
        "arm": arm,
        "task": stored["science"]["task"]["name"],
        "axis": axis.value(stored["config"]),
        "seed": seed_of(stored["config"]),
    }
