"""The evaluations of a study's runs as a tidy table: a row for each suite or benchmark of each run."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from gmt.axis import Axis
from gmt.records.record import RunRecord
from gmt.tracking.run_columns import RUN_COLUMNS, run_columns

# Column -> pandas dtype. `part` is target or source, `suite` the name of the evaluation, and `metric` the name of its
# value, e.g. `exact_match`. `before` is the base's value, `after` the value of the run's weights.
COLUMNS: Mapping[str, str] = {
    **RUN_COLUMNS,
    "part": "string",
    "suite": "string",
    "metric": "string",
    "before": "Float64",
    "after": "Float64",
}


def read_suites(runs: Iterable[tuple[str, str, RunRecord]], *, axis: Axis) -> pd.DataFrame:
    """Return the evaluations of finished runs, with a row for each; other runs are left out.

    Args:
        runs: arm, label and record of each run.
        axis: the study's axis.
    """
    done_records = ((arm, record) for arm, _, record in runs if record.state() == "done")
    rows = [row for arm, record in done_records for row in _rows(arm, record, axis)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict(COLUMNS))


def _rows(arm: str, record: RunRecord, axis: Axis) -> Iterator[dict[str, Any]]:
    task, result, run = record.read("config.json")["science"]["task"], record.result(), run_columns(arm, record, axis)
    for part in ("target", "source"):
        names = {*result.after[part], *(task.get(part) or ())}
        for key, after in result.metrics["after"].items():
            if key.startswith(f"eval/{part}/"):
                suite, metric = _split(key.removeprefix(f"eval/{part}/"), names)
                before = result.metrics["before"].get(key)
                yield {**run, "part": part, "suite": suite, "metric": metric, "before": before, "after": after}


def _split(key: str, names: Iterable[str]) -> tuple[str, str]:
    """Return the name of an evaluation, the longest that the key begins with, and its metric."""
    name = max((name for name in names if key.startswith(f"{name}_")), key=len, default="")
    return (name, key.removeprefix(f"{name}_")) if name else (key, "")
