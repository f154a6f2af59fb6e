"""The measurements of `gmt diagnose` on a study's runs, as long tables. Reads records and computes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gmt.records.diagnoses import Diagnosis, diagnoses_of
from gmt.studies.plan import PlannedRun

_OTHER_PREFIX = "other_"
_ROW_KEYS = ("layer", "matrix", "name", "value")
_DTYPES = {"layer": "Int64", "seed": "Int64", "other_seed": "Int64", "value": "float64"}


@dataclass(frozen=True, kw_only=True)
class DiagnosticTable:
    """The numbers of one diagnostic with one choice of settings.

    Args:
        name: the name of the diagnostic; a second choice of settings has the suffix `_2`, and so on.
        settings: the settings of the diagnostic.
        shown: the title and the panels of its figure.
        rows: a row for each number. Its columns describe the run and, with the prefix `other_`, the other run of a
            pair; then come layer, matrix, name and value.
        differing: a sentence if the rows were measured by differing code; else None.
    """

    name: str
    settings: Mapping[str, Any]
    shown: Mapping[str, Any]
    rows: pd.DataFrame
    differing: str | None


def read_diagnoses(
    done: Sequence[PlannedRun], describe: Callable[[PlannedRun], Mapping[str, Any]]
) -> Mapping[str, DiagnosticTable]:
    """Return the measurements on finished runs and on their pairs, by name.

    Args:
        done: the finished runs; pairs with any other run are left out.
        describe: returns the columns that describe a run, e.g. its arm and seed.
    """
    by_id = {planned.run.id: planned for planned in done}
    groups: dict[tuple[str, str], list[tuple[PlannedRun, Diagnosis]]] = {}
    for planned in done:
        for diagnosis in diagnoses_of(planned.record):
            if diagnosis.other is None or diagnosis.other in by_id:
                key = (diagnosis.diagnostic, json.dumps(diagnosis.settings, sort_keys=True))
                groups.setdefault(key, []).append((planned, diagnosis))
    tables: dict[str, DiagnosticTable] = {}
    for (diagnostic, _), group in sorted(groups.items(), key=lambda item: item[0]):
        number = sum(table.settings["name"] == diagnostic for table in tables.values()) + 1
        name = diagnostic if number == 1 else f"{diagnostic}_{number}"
        rows = [row for planned, diagnosis in group for row in _rows(planned, diagnosis, by_id, describe)]
        tables[name] = DiagnosticTable(
            name=name,
            settings=group[0][1].settings,
            shown=group[0][1].shown,
            rows=pd.DataFrame(rows).astype(_DTYPES) if rows else pd.DataFrame(),
            differing=_differing(name, [diagnosis for _, diagnosis in group]),
        )
    return tables


def _rows(
    planned: PlannedRun,
    diagnosis: Diagnosis,
    by_id: Mapping[str, PlannedRun],
    describe: Callable[[PlannedRun], Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    run = {"run_id": planned.run.id, **describe(planned)}
    other = dict.fromkeys((f"{_OTHER_PREFIX}{key}" for key in run), None)
    if diagnosis.other is not None:
        second = by_id[diagnosis.other]
        columns = {"run_id": second.run.id, **describe(second)}
        other = {f"{_OTHER_PREFIX}{key}": value for key, value in columns.items()}
    for row in diagnosis.rows:
        yield {**run, **other, **{key: row[key] for key in _ROW_KEYS}}


def _differing(name: str, diagnoses: Sequence[Diagnosis]) -> str | None:
    for package in sorted({package for diagnosis in diagnoses for package in diagnosis.code}):
        versions = list(dict.fromkeys(diagnosis.code.get(package, "none") for diagnosis in diagnoses))
        if len(versions) > 1:
            return f"{name} was measured by differing code: {package} {', '.join(versions)}. Repeat `gmt diagnose`."
    return None
