"""Model soups (Wortsman et al., arXiv 2203.05482): the mean of several fine-tuned models.

As in the authors' code (mlfoundations/model-soups, main.py): the greedy soup begins with the best model, tries the
others from good to bad, and takes one in if the mean scores strictly better with it. Departure: the mean is taken in
double precision, so that the mean of equal weights is those weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.merges.protocol import TWO_OR_MORE_PARENTS, Formula, Weights
from gmt.tasks.evaluations import Evaluation, built, fingerprints

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Soup:
    """The mean of all parents.

    Args:
        name: the word for it in tables.
    """

    name: str

    num_parents = TWO_OR_MORE_PARENTS
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.text("merge.name", self.name)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return the mean."""
        return lambda name: mean(weights, name)


@dataclass(frozen=True, kw_only=True)
class GreedySoup:
    """The mean of those parents that score better together, in questions that the target does not ask.

    Args:
        name: the word for it in tables.
        validation: name -> an evaluation with a `_target_`; the mean of the scores decides.
    """

    name: str
    validation: Mapping[str, Evaluation]

    num_parents = TWO_OR_MORE_PARENTS
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.text("merge.name", self.name)
        built("merge.validation", self.validation)

    def fingerprint(self) -> str:
        """Names what is asked beyond what the settings say."""
        return fingerprints(self.validation)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return the mean of those that are given."""
        return lambda name: mean(weights, name)

    def choose(self, num_parents: int, score: Callable[[Sequence[int]], float]) -> Sequence[int]:
        """Return the soup's members, the best first; equals stay in their order."""
        alone = {parent: score([parent]) for parent in range(num_parents)}
        first, *others = sorted(alone, key=lambda parent: -alone[parent])
        members, best = [first], alone[first]
        for parent in others:
            with_it = score([*members, parent])
            if with_it > best:
                members, best = [*members, parent], with_it
        return members


def mean(weights: Weights, name: str) -> Tensor:
    """Return the mean of a tensor over the parents."""
    total = weights.tuned(0, name).double()
    for parent in range(1, weights.num_parents):
        total += weights.tuned(parent, name)
    return (total / weights.num_parents).float()
