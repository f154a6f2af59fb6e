"""Laws of a diagnostic, tried on a short run that is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gmt.checks.short_runs import Measured, ShortRuns
from gmt.checks.training import trains
from gmt.checks.verdict import Verdict
from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.removal import remove
from gmt.runs.diagnose import Diagnosing

MEASURES = "it measures a finished run, in finite numbers"
AGAIN = "measured again in another process, it gives the same numbers"
LEAVES = "it leaves the run as it was"
DRAWN = "its figure shows values that it gives"


def laws_of_diagnostic(config: Mapping[str, Any], runs: ShortRuns) -> Iterator[Verdict]:
    """Yield a verdict on each law; only the first two, if nothing can be measured.

    Args:
        config: the diagnostic's.
        runs: does the run.
    """
    done = runs.do(stays=True)
    yield (verdict := trains(done, "a run that it can measure is done"))
    if verdict.state == "broken":
        return
    first = runs.measure(config)
    yield (verdict := _measures(first))
    if verdict.state != "holds":
        return
    remove(done.record.folder / "diagnostics", done.record.folder)
    again = runs.measure(config)
    yield _again(first, again)
    yield _leaves(done.record)
    panels = Diagnosing(config).diagnostic.shown.panels
    if missing := [panel for panel in panels if panel not in {row["name"] for row in first.rows}]:
        detail = f"no row has the name {', '.join(missing)} of `shown.panels`: a figure leaves it out"
        yield Verdict(law=DRAWN, state="broken", detail=detail)
    else:
        yield Verdict(law=DRAWN, state="holds", detail=", ".join(panels))


def _measures(first: Measured) -> Verdict:
    if first.state == "refused":
        return Verdict(law=MEASURES, state="broken", detail=first.sentence)
    if first.state != "done" or not first.rows:
        detail = first.sentence or "it gives no row"
        return Verdict(law=MEASURES, state="broken", detail=detail)
    names = dict.fromkeys(row["name"] for row in first.rows)
    return Verdict(law=MEASURES, state="holds", detail=f"{len(first.rows)} numbers: {', '.join(names)}")


def _again(first: Measured, again: Measured) -> Verdict:
    if again.state == "done" and again.rows == first.rows:
        return Verdict(law=AGAIN, state="holds")
    pairs = zip(first.rows, again.rows, strict=False)
    one = next((f"{a['name']} is {a['value']} and then {b['value']}" for a, b in pairs if a != b), again.sentence)
    detail = f"{one or 'the rows differ'}: draw from a generator of its own, with a seed among its settings"
    return Verdict(law=AGAIN, state="broken", detail=detail)


def _leaves(record: RunRecord) -> Verdict:
    try:
        record.check_unchanged()
    except UserError as error:
        return Verdict(law=LEAVES, state="broken", detail="; ".join(error.sentences))
    return Verdict(law=LEAVES, state="holds")
