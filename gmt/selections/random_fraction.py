"""A random part of the examples: what every other selection has to beat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from gmt import settings
from gmt.selections.fraction import check_fraction, number_of
from gmt.selections.protocol import Choice, Measures
from gmt.tasks.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class RandomFraction:
    """Draws examples without replacement, by the run's seed.

    Each example's place in the draw is a hash of seed and index, so that the choice is the same on any machine and in
    any version, and a smaller fraction is a part of a larger one.

    Args:
        name: the word for it in tables.
        fraction: of the examples that fit, in (0, 1].
    """

    name: str
    fraction: float

    def __post_init__(self) -> None:
        settings.text("selection.name", self.name)
        check_fraction(self.fraction)

    def number(self, examples: Sequence[Tokens]) -> int:
        """Return the fraction of the examples."""
        return number_of(self.fraction, len(examples))

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Draw."""
        drawn = sorted(range(len(examples)), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())
        return Choice(indices=drawn[: self.number(examples)], scores=None)
