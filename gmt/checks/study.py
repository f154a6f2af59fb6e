"""Laws of a study: all its runs can be planned, and the first of each arm trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gmt.checks.planning import shortened
from gmt.checks.short_runs import ShortRuns
from gmt.checks.training import trains
from gmt.checks.verdict import Verdict
from gmt.composition import Composer
from gmt.errors import UserError
from gmt.studies.make_plan import make_plan
from gmt.studies.opened import axes_of, study_of

PLANS = "all its runs compose and build, each of them once"
BASELINE = "its baseline is one of its arms"


def laws_of_study(
    composer: Composer, config: Mapping[str, Any], overrides: Sequence[str], folder: Path
) -> Iterator[Verdict]:
    """Yield a verdict on each law; only the first, if its runs can't be planned.

    Args:
        composer: a composer within a Hydra session.
        config: the resolved config, with the study.
        overrides: the user's overrides.
        folder: an empty folder for the records of the runs.
    """
    try:
        study = study_of(config)
        plan = make_plan(composer, study, axes_of(composer, overrides))
    except UserError as error:
        yield Verdict(law=PLANS, state="broken", detail="; ".join(error.sentences))
        return
    planned = [*plan.runs, *plan.later]
    yield Verdict(law=PLANS, state="holds", detail=f"{len(planned)} runs in {len(study.arms)} arms")
    if study.baseline in study.arms:
        yield Verdict(law=BASELINE, state="holds", detail=study.baseline)
    else:
        detail = f"study.baseline is {study.baseline}, and the arms are {', '.join(study.arms)}"
        yield Verdict(law=BASELINE, state="broken", detail=detail)
    first = {run.point.arm: run.run.config for run in reversed(planned)}
    for number, arm in enumerate(study.arms):
        runs = ShortRuns(shortened(first[arm]), folder / f"arm{number}")
        yield trains(runs.execute(), f"the first run of arm {arm} trains")
