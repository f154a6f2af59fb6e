"""Composes and checks the runs of a study."""

from collections.abc import Iterable, Sequence
from typing import Any

from gmt.composition import Composer
from gmt.errors import UserError
from gmt.runs.build import Builder, Run
from gmt.studies.grid import Point
from gmt.studies.plan import PlannedRun


class RunMaker:
    """Composes and checks runs, and collects their faults."""

    def __init__(self, composer: Composer):
        self.faults: dict[str, None] = {}
        self._composer, self._builder = composer, Builder()
        self._parents: dict[Point, PlannedRun | None] = {}

    def run(self, point: Point) -> PlannedRun | None:
        """Return the run of a point; None, with the faults collected, if the run or one of its parents is wrong."""
        parents = [self._parent(parent) for parent in point.parents]
        if None in parents:
            return None
        try:
            config = self._composer.compose_plain(point.overrides)
            run = self._builder.build(config) if not parents else self._merge(config, point, parents)
        except UserError as error:
            self.faults |= dict.fromkeys(f"arm {point.arm}: {sentence}" for sentence in error.sentences)
            return None
        return PlannedRun(point=point, run=run)

    def _parent(self, point: Point) -> PlannedRun | None:
        if point not in self._parents:
            self._parents[point] = self.run(point)
        return self._parents[point]

    def _merge(self, config: dict[str, Any], point: Point, parents: Sequence[PlannedRun | None]) -> Run:
        """Return the run of a merge.

        Its config lists the parents, unless the only parent is the run with the same settings without the merge, which
        is the default.
        """
        ids = [parent.run.id for parent in parents if parent is not None]
        if len(ids) == 1 and (run := self._builder.build(config)).parent_ids == tuple(ids):
            return run
        return self._builder.build({**config, "parents": ids, "over": list(point.differing_settings)})

    def runs(self, points: Iterable[Point]) -> list[PlannedRun]:
        """Return the runs of points, without those that are wrong."""
        return [planned for planned in map(self.run, points) if planned is not None]
