"""The comparisons that answer a question: which choice is compared with which."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from gmt.verdicts.question import EACH_OTHER, EVERY_ARM, Question


class Choice(NamedTuple):
    """An arm at a value of the axis; None for an arm without the axis."""

    arm: str
    value: float | None

    @property
    def name(self) -> str:
        """The arm and its value, e.g. `gmt 0.5`; only the arm if it has no value, e.g. `sft`."""
        return self.arm if self.value is None else f"{self.arm} {self.value:g}"


Pair = tuple[Choice, Choice]
Columns = Sequence[tuple[Pair, tuple[str, ...]]]  # a comparison is a pair on a task, or on several that are pooled


def pairs_of(question: Question, choices: Sequence[Choice]) -> list[Pair]:
    """Return the pairs of choices that a question compares: a choice, and the choice that it is compared with.

    The list is empty if `question.against` names several arms, because a setting splits the arm.

    Args:
        question: names the arms; a name means all arms that begin with it, e.g. `gmt learning_rate=0.001`.
        choices: the choices of the study.
    """
    compared = [choice for choice in choices if _is_compared(question, choice)]
    if question.against == EACH_OTHER:
        return [(later, earlier) for earlier, later in itertools.combinations(compared, 2)]
    others = [choice for choice in choices if names_arm(question.against, choice.arm)]
    if len({choice.arm for choice in others}) != 1:
        return []
    if len(others) == 1:
        return [(choice, others[0]) for choice in compared]
    by_value = {other.value: other for other in others}
    return [(choice, by_value[choice.value]) for choice in compared if choice.value in by_value]


def columns_of(question: Question, pairs: Sequence[Pair], tasks: Sequence[str]) -> Columns:
    """Return the comparisons of a question, all pairs on a task before those on the next."""
    groups = [tuple(tasks)] if question.tasks == "pooled" else [(task,) for task in tasks]
    return [(pair, group) for group in groups for pair in pairs]


def names_arm(name: str, arm: str) -> bool:
    """Return whether a name in `study.primary` means an arm, whose own name may end with other varied settings."""
    return name in (arm, arm.partition(" ")[0])


def _is_compared(question: Question, choice: Choice) -> bool:
    if names_arm(question.against, choice.arm):
        return False
    if question.arms != EVERY_ARM and not any(names_arm(name, choice.arm) for name in question.arms):
        return False
    return choice.value is None or question.values is None or choice.value in question.values
