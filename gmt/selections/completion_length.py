"""Chooses the examples with the longest or the shortest completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gmt import settings
from gmt.selections.completion import length_of
from gmt.selections.fraction import check_fraction, number_of, ordered
from gmt.selections.protocol import Choice, Measures
from gmt.tasks.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class CompletionLength:
    """Ranks examples by the number of tokens of their completions.

    The longest completions are a strong baseline of instruction tuning (Zhao et al., "Long Is More for Alignment",
    arXiv 2402.04833). The completion of a preference is its preferred answer.

    Args:
        name: the selection's name in tables.
        keep: `longest` or `shortest`.
        fraction: the fraction of the fitting examples to choose, in (0, 1].
    """

    name: str
    keep: str
    fraction: float

    def __post_init__(self) -> None:
        settings.one_of("selection.keep", self.keep, ("longest", "shortest"))
        check_fraction(self.fraction)

    def number(self, examples: Sequence[Tokens]) -> int:
        """Return the number that is nearest to the fraction."""
        return number_of(self.fraction, len(examples))

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Rank by length."""
        lengths = [length_of(example) for example in examples]
        ranked = ordered(lengths, largest=self.keep == "longest")
        return Choice(indices=ranked[: self.number(examples)], scores=lengths)
