"""Chooses a random part of the examples; the baseline of every other selection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from gmt.selections.fraction import check_fraction, number_of
from gmt.selections.protocol import Choice, Measures
from gmt.tasks.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class RandomFraction:
    """Draws examples without replacement, by the run's seed.

    Examples are drawn in the order of a hash of seed and index, so that the choice is the same on any machine and in
    any version, and the choice of a smaller fraction is a part of the choice of a larger one.

    Args:
        name: the selection's name in tables.
        fraction: the fraction of the fitting examples to choose, in (0, 1].
    """

    name: str
    fraction: float

    def __post_init__(self) -> None:
        check_fraction(self.fraction)

    def number(self, examples: Sequence[Tokens]) -> int:
        """Return the number that is nearest to the fraction."""
        return number_of(self.fraction, len(examples))

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Choose the examples with the smallest hashes."""
        drawn = sorted(range(len(examples)), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())
        return Choice(indices=drawn[: self.number(examples)], scores=None)
