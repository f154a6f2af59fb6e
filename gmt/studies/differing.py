"""Finds runs that a table averages although different code made them. Reads records only."""

import re
from collections.abc import Mapping, Sequence

from gmt.listed import some
from gmt.records.record import RunRecord
from gmt.runs.code_versions import code_of_environment, own_checkout, uncommitted
from gmt.studies.grid import label_of_choice
from gmt.studies.plan import PlannedRun

COMMIT = re.compile(r"[0-9a-f]{40}")


def differing_code(finished: Sequence[PlannedRun]) -> list[str]:
    """Return a sentence for each package whose code differs among the finished runs of one row, or of the study.

    Args:
        finished: finished runs of a study.
    """
    rows: dict[str, list[tuple[PlannedRun, Mapping[str, str]]]] = {}
    for planned in finished:
        rows.setdefault(label_of_choice(planned.point), []).append((planned, code_of_record(planned.record)))
    sentences, named = [], set()
    for row, runs in rows.items():
        for name in sorted({name for _, code in runs for name in code}):
            seeds_by_code: dict[str, list[str]] = {}
            for planned, code in runs:
                if name in code:
                    seeds_by_code.setdefault(code[name], []).append(str(planned.run.seed))
            if len(seeds_by_code) > 1 or ", then " in next(iter(seeds_by_code)):
                named.add(name)
                values = "; ".join(f"{value} (seed {', '.join(seeds)})" for value, seeds in seeds_by_code.items())
                sentences.append(
                    f"The runs of {row} were made by differing code, which their mean hides: {name} {values}."
                )
    return [*sentences, *_differing_between_rows(rows, named)]


def _differing_between_rows(
    rows: Mapping[str, Sequence[tuple[PlannedRun, Mapping[str, str]]]], named: set[str]
) -> list[str]:
    """Return a sentence for each package whose code is the same within each row, but differs between rows."""
    sentences = []
    for name in sorted({name for runs in rows.values() for _, code in runs for name in code} - named):
        rows_by_code: dict[str, list[str]] = {}
        for row, runs in rows.items():
            for value in dict.fromkeys(code[name] for _, code in runs if name in code):
                rows_by_code.setdefault(value, []).append(row)
        if len(rows_by_code) > 1:
            values = "; ".join(f"{value} ({some(labels)})" for value, labels in rows_by_code.items())
            sentences.append(f"Rows that are compared were made by differing code: {name} {values}.")
    return sentences


def moving_models(runs: Sequence[PlannedRun]) -> list[str]:
    """Return a sentence for each hub model whose revision is a branch or a tag, so that the same run id may later
    stand for other weights."""
    named = {
        f"model.revision={revision} of model {planned.run.model.name} is not a commit and may change: set it to the "
        "commit that the hub shows."
        for planned in runs
        if (revision := planned.run.config["model"].get("revision")) is not None and not COMMIT.fullmatch(str(revision))
    }
    return sorted(named)


def uncommitted_changes() -> list[str]:
    """Return a sentence on the uncommitted changes of this package's checkout, if there are any."""
    root = own_checkout()
    if root is None or not (changes := uncommitted(root)):
        return []
    return [
        f"this checkout has uncommitted changes ({some(changes, most=3)}): reports leave out runs made from it, "
        "unless the option --dirty includes them"
    ]


def code_of_record(record: RunRecord) -> Mapping[str, str]:
    """Return the code that made a finished run; for an old record, which does not list the code, only the commit."""
    return code_of_environment(record.read("environment.json"))
