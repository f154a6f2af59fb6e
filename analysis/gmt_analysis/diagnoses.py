"""What `gmt diagnose` measured on a study's runs, as long tables. Reads records and computes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gmt.records.diagnoses import Diagnosis, diagnoses_of
from gmt.studies.plan import PlannedRun

_OTHER = "other_"
_NUMBER = ("layer", "matrix", "name", "value")
_DTYPES = {"layer": "Int64", "seed": "Int64", "other_seed": "Int64", "value": "float64"}


@dataclass(frozen=True, kw_only=True)
class Diagnosed:
    """What one diagnostic with one choice of settings came to.

    Args:
        name: of the diagnostic; followed by `_2` and so on for its further settings.
        settings: of the diagnostic.
        shown: title and panels of its figure.
        rows: a row for each number: what is known of the run and, under other_..., of the other run of a pair; layer,
            matrix, name, value.
        differing: a sentence if the rows were made by differing code; else None.
    """

    name: str
    settings: Mapping[str, Any]
    shown: Mapping[str, Any]
    rows: pd.DataFrame
    differing: str | None


def read_diagnoses(
    done: Sequence[PlannedRun], about: Callable[[PlannedRun], Mapping[str, Any]]
) -> Mapping[str, Diagnosed]:
    """Return what was measured on finished runs and on their pairs, by name.

    Args:
        done: the runs; what was measured with others is left out.
        about: what a row says of a run, e.g. its arm and seed.
    """
    by_id = {planned.run.id: planned for planned in done}
    found: dict[tuple[str, str], list[tuple[PlannedRun, Diagnosis]]] = {}
    for planned in done:
        for diagnosis in diagnoses_of(planned.record):
            if diagnosis.other is None or diagnosis.other in by_id:
                key = (diagnosis.diagnostic, json.dumps(diagnosis.settings, sort_keys=True))
                found.setdefault(key, []).append((planned, diagnosis))
    named: dict[str, Diagnosed] = {}
    for (diagnostic, _), group in sorted(found.items(), key=lambda item: item[0]):
        number = sum(each.settings["name"] == diagnostic for each in named.values()) + 1
        name = diagnostic if number == 1 else f"{diagnostic}_{number}"
        rows = [row for planned, diagnosis in group for row in _rows(planned, diagnosis, by_id, about)]
        named[name] = Diagnosed(
            name=name,
            settings=group[0][1].settings,
            shown=group[0][1].shown,
            rows=pd.DataFrame(rows).astype(_DTYPES) if rows else pd.DataFrame(),
            differing=_differing(name, [diagnosis for _, diagnosis in group]),
        )
    return named


def _rows(
    planned: PlannedRun,
    diagnosis: Diagnosis,
    by_id: Mapping[str, PlannedRun],
    about: Callable[[PlannedRun], Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    run = {"run_id": planned.run.id, **about(planned)}
    other = dict.fromkeys((f"{_OTHER}{key}" for key in run), None)
    if diagnosis.other is not None:
        second = by_id[diagnosis.other]
        other = {f"{_OTHER}{key}": value for key, value in {"run_id": second.run.id, **about(second)}.items()}
    for row in diagnosis.rows:
        yield {**run, **other, **{key: row[key] for key in _NUMBER}}


def _differing(name: str, diagnoses: Sequence[Diagnosis]) -> str | None:
    for package in sorted({package for each in diagnoses for package in each.code}):
        values = list(dict.fromkeys(each.code.get(package, "none") for each in diagnoses))
        if len(values) > 1:
            return (
                f"{name} was measured by differing code: {package} {', '.join(values)}; `gmt diagnose` measures anew."
            )
    return None
