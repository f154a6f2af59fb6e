"""The primary questions that a study declares before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gmt import settings
from gmt.errors import UserError

LEVEL = 0.05  # of all primary questions of a study together
FEWEST = 3  # pairs of a test: scores come in steps of one question, so that two pairs often differ by the same amount
MEASURES = {"target": "target score", "forgetting": "forgetting"}  # setting -> name in sentences
PARTS = {"target": "target", "forgetting": "source"}  # measure -> the part of a task whose questions give it
LESS_IS_BETTER = ("forgetting",)
# A claim of all comparisons is shown if each of them is shown by itself, at the whole level: an intersection-union test
# (Berger, 1982). A claim of each comparison needs a correction for the number of comparisons.
OF_ALL = ("equivalent", "not_worse")
OF_EACH = ("different", "better")
EACH_OTHER, EVERY_ARM = "each_other", "all"
_TASKS = ("apart", "pooled")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question that a study is to decide.

    Args:
        name: its key in `study.primary`.
        measure: `target` or `forgetting`, the score that is compared.
        claim: `equivalent` or `not_worse` is claimed of all comparisons together; `different` or `better` is claimed of
            each by itself, and the answer names those for which it is shown. Better means a higher target score, or
            less forgetting.
        arms: the names of arms; `all` means every arm except `against`.
        against: the arm that the arms are compared with, at the same value of the axis if it has several; or
            `each_other` for every pair of arms and values, but not for `not_worse`.
        values: the values of the axis to compare; None for all that the arms have. An arm without the axis always takes
            part.
        tasks: `apart`: each comparison on each task; `pooled`: each comparison of means over tasks, seed by seed.
        margin: the largest difference that does not matter, a fraction of the score's range.
        target_margin: for measure `forgetting` and claim `better`: an arm is better only if its target score is also
            shown to be at most this much lower. None: the target score does not matter.
        deviation: the standard deviation of a paired difference over seeds, for `gmt plan` before any run is finished;
            None: unknown.
    """

    name: str
    measure: str
    claim: str
    arms: Sequence[str] | str
    against: str
    tasks: str
    margin: float
    values: Sequence[float] | None = None
    target_margin: float | None = None
    deviation: float | None = None

    def __post_init__(self) -> None:
        settings.one_of(self._key("measure"), self.measure, tuple(MEASURES))
        settings.one_of(self._key("claim"), self.claim, OF_ALL + OF_EACH)
        settings.one_of(self._key("tasks"), self.tasks, _TASKS)
        settings.text(self._key("against"), self.against)
        if self.arms != EVERY_ARM and not (self.arms and _is_list_of(self.arms, str)):
            raise UserError(f"{self._key('arms')} must be a list of arms, or {EVERY_ARM}, got {self.arms!r}")
        if self.values is not None and not _is_list_of(self.values, (int, float)):
            raise UserError(f"{self._key('values')} must be a list of numbers, got {self.values!r}")
        if (self.claim, self.against) == ("not_worse", EACH_OTHER):
            raise UserError(
                f"{self._key('against')} must be an arm where claim=not_worse, got {EACH_OTHER}: neither of two is "
                "worse by the margin if they are equivalent (claim=equivalent)"
            )
        for key in ("margin", "target_margin", "deviation"):
            if (value := getattr(self, key)) is not None:
                settings.number(self._key(key), value, "must lie in (0, 1)", low=0, high=1, open_low=True)
        if self.target_margin is not None and (self.measure, self.claim) != ("forgetting", "better"):
            raise UserError(
                f"{self._key('target_margin')} needs measure=forgetting and claim=better, got "
                f"measure={self.measure} and claim={self.claim}"
            )

    def _key(self, key: str) -> str:
        return f"study.primary.{self.name}.{key}"

    @property
    def is_of_all(self) -> bool:
        """Whether the claim is made of all comparisons together, and not of each by itself."""
        return self.claim in OF_ALL

    @property
    def more_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        return self.measure not in LESS_IS_BETTER


def _is_list_of(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(x, kind) for x in value)
