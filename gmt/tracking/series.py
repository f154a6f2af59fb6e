"""The metrics that a study's runs logged, as a tidy table. Imports no MLflow."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from gmt.axis import Axis
from gmt.records.record import RunRecord
from gmt.tracking.run_columns import RUN_COLUMNS, run_columns

# Column -> pandas dtype. `layer` is missing for a metric of the whole model; `name` is the metric's name without its
# layer, e.g. `mask/energy_kept`.
COLUMNS: Mapping[str, str] = {
    **RUN_COLUMNS,
    "step": "Int64",
    "layer": "string",
    "name": "string",
    "value": "Float64",
}
_LAYERS = "mask/layers/"


def read_series(runs: Iterable[tuple[str, str, RunRecord]], names: Collection[str], *, axis: Axis) -> pd.DataFrame:
    """Return logged metrics of finished runs, with a row for each value.

    Args:
        runs: arm, label and record of each run; unfinished runs, and runs whose metrics.jsonl has changed since they
            ended, are left out.
        names: the names of the metrics, e.g. `mask/energy_kept`, which select the whole model's values and layers'.
        axis: the study's axis.
    """
    done_records = ((arm, record) for arm, _, record in runs if record.state(also=("metrics.jsonl",)) == "done")
    rows = [row for arm, record in done_records for row in _rows(arm, record, names, axis)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict(COLUMNS))


def _rows(arm: str, record: RunRecord, names: Collection[str], axis: Axis) -> Iterator[dict[str, Any]]:
    run = run_columns(arm, record, axis)
    for logged in record.metrics()[0]:
        for key, value in logged.items():
            name, layer = _split(key)
            if name in names:
                yield {**run, "step": logged["step"], "layer": layer, "name": name, "value": value}


def _split(key: str) -> tuple[str, str | None]:
    """Return the metric and the layer of a key: `mask/layers/LAYER/overlap` is `mask/overlap` of that layer."""
    if not key.startswith(_LAYERS):
        return key, None
    layer, _, fact = key.removeprefix(_LAYERS).rpartition("/")
    return f"mask/{fact}", layer
