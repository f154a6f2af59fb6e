"""Faults of the merges of a plan, found before anything starts."""

from collections.abc import Iterator, Sequence

from gmt.errors import UserError
from gmt.runs.parents import fault_of, parents_of
from gmt.studies.grid import Point
from gmt.studies.plan import PlannedRun


def refuse_merges_of_what_is_tuned(points: Sequence[Point]) -> None:
    """Refuse a study that tunes and merges.

    Raises:
        UserError: some arm merges.
    """
    if (merge := next((point for point in points if _is_merge(point)), None)) is not None:
        raise UserError(
            f"study.tuning can't go with merges, got arm {merge.arm}: a merge is planned when the settings of its "
            "parents are known; merge in a study of its own, with the settings that tuning has chosen"
        )


def _is_merge(point: Point) -> bool:
    keys = [text.partition("=") for text in point.overrides]
    return bool(point.parents) or any(key == "merge" and value != "null" for key, _, value in keys)


def faults_of_parents(runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Yield a sentence for each parent whose weights a merge of the plan can't get, in whatever order the runs go."""
    by_id = {planned.run.id: planned.run for planned in runs}
    for planned in runs:
        if planned.run.merge is None or planned.record.state() == "done":  # the parents of a finished merge may be gone
            continue
        for record in parents_of(planned.run):
            if (fault := fault_of(planned.run, record, by_id)) is not None:
                yield f"arm {planned.point.arm}: {fault}"
