"""Composes and checks the runs of a study."""

from collections.abc import Iterable

from gmt.composition import Composer
from gmt.errors import UserError
from gmt.runs.build import Builder
from gmt.studies.grid import Point
from gmt.studies.plan import PlannedRun


class RunMaker:
    """Composes and checks runs, and gathers what is wrong with them."""

    def __init__(self, composer: Composer):
        self.faults: dict[str, None] = {}
        self._composer, self._builder = composer, Builder()

    def run(self, point: Point) -> PlannedRun | None:
        """Return the run of a point; None, and its faults are gathered, if it is wrong."""
        try:
            run = self._builder.build(self._composer.compose_plain(point.overrides))
        except UserError as error:
            self.faults |= dict.fromkeys(f"arm {point.arm}: {sentence}" for sentence in error.sentences)
            return None
        return PlannedRun(point=point, run=run)

    def runs(self, points: Iterable[Point]) -> list[PlannedRun]:
        """Return the runs of points, without those that are wrong."""
        return [planned for planned in map(self.run, points) if planned is not None]
