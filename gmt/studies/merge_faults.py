"""Faults of the merges of a plan, found before anything starts."""

from collections.abc import Iterator, Sequence

from gmt.errors import UserError
from gmt.runs.parents import fault_of, parents_of
from gmt.studies.grid import Point
from gmt.studies.plan import PlannedRun


def refuse_merges_of_runs_outside(points: Sequence[Point]) -> None:
    """Refuse, in a study with tuning, a merge whose parents are not runs of the study: tuning can't choose their value.

    Raises:
        UserError: some arm merges and does not name the arm of its parents.
    """
    if (merge := next((point for point in points if not point.parents and _is_merge(point)), None)) is not None:
        raise UserError(
            f"study.arms.{merge.arm} must name the arm of its parents by from: study.tuning chooses a setting for the "
            "runs of the study, and a merge has the values of its parents"
        )


def _is_merge(point: Point) -> bool:
    keys = [text.partition("=") for text in point.overrides]
    return any(key == "merge" and value != "null" for key, _, value in keys)


def faults_of_parents(runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Yield a sentence for each parent whose weights a merge of the plan can't get, whatever the order of the runs."""
    by_id = {planned.run.id: planned.run for planned in runs}
    for planned in runs:
        if planned.run.merge is None or planned.record.state() == "done":  # the parents of a finished merge may be gone
            continue
        for record in parents_of(planned.run):
            if (fault := fault_of(planned.run, record, by_id)) is not None:
                yield f"arm {planned.point.arm}: {fault}"
