"""Laws of a diagnostic, tried on a finished short run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gmt.checks.short_runs import Measurement, ShortRuns
from gmt.checks.training import trains
from gmt.checks.verdict import Verdict
from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.removal import remove
from gmt.runs.diagnose import Diagnosing

MEASURES = "it measures a finished run, in finite numbers"
REPEATS = "measured again in another process, it gives the same numbers"
UNCHANGED = "it leaves the run as it was"
FIGURE = "its rows have the values that its figure shows"


def laws_of_diagnostic(config: Mapping[str, Any], runs: ShortRuns) -> Iterator[Verdict]:
    """Yield a verdict on each law; only the first two, if the diagnostic can't measure the run.

    Args:
        config: the config of the diagnostic.
        runs: executes the run that is measured.
    """
    done = runs.execute(leave_record=True)
    yield (verdict := trains(done, "the short run that it measures finishes"))
    if verdict.state == "broken":
        return
    first = runs.measure(config)
    yield (verdict := _measures(first))
    if verdict.state != "holds":
        return
    remove(done.record.folder / "diagnostics", done.record.folder)
    yield _repeats(first, runs.measure(config))
    yield _unchanged(done.record)
    panels = Diagnosing(config).diagnostic.shown.panels
    if missing := [panel for panel in panels if panel not in {row["name"] for row in first.rows}]:
        detail = f"no row has the name {', '.join(missing)}: give such rows, or remove the panel from `shown.panels`"
        yield Verdict(law=FIGURE, state="broken", detail=detail)
    else:
        yield Verdict(law=FIGURE, state="holds", detail=", ".join(panels))


def _measures(first: Measurement) -> Verdict:
    if first.state != "done" or not first.rows:
        return Verdict(law=MEASURES, state="broken", detail=first.sentence or "it gives no row")
    names = dict.fromkeys(row["name"] for row in first.rows)
    return Verdict(law=MEASURES, state="holds", detail=f"{len(first.rows)} numbers: {', '.join(names)}")


def _repeats(first: Measurement, second: Measurement) -> Verdict:
    if second.state == "done" and second.rows == first.rows:
        return Verdict(law=REPEATS, state="holds")
    pairs = zip(first.rows, second.rows, strict=False)
    change = next((f"{a['name']} is {a['value']} and then {b['value']}" for a, b in pairs if a != b), second.sentence)
    detail = f"{change or 'the rows differ'}: draw from a new generator, whose seed is a setting of the diagnostic"
    return Verdict(law=REPEATS, state="broken", detail=detail)


def _unchanged(record: RunRecord) -> Verdict:
    try:
        record.check_unchanged()
    except UserError as error:
        return Verdict(law=UNCHANGED, state="broken", detail="; ".join(error.sentences))
    return Verdict(law=UNCHANGED, state="holds")
