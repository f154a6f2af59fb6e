"""Model soups (Wortsman et al., arXiv 2203.05482): the mean of several fine-tuned models.

As in the authors' code (mlfoundations/model-soups, main.py), the greedy soup begins with the best model, tries the
others from the best to the worst, and adds a model if the mean then scores strictly better. Departure: the mean is
computed in double precision, so that the mean of equal weights equals them bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.merges.protocol import TWO_OR_MORE_PARENTS, Formula, Weights
from gmt.tasks.evaluations import Evaluation, check_evaluations, fingerprints

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Soup:
    """The mean of all parents.

    Args:
        name: the merge's name in tables.
    """

    name: str

    num_parents = TWO_OR_MORE_PARENTS
    takes_other_base = False

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return the mean."""
        return lambda name: mean(weights, name)


@dataclass(frozen=True, kw_only=True)
class GreedySoup:
    """The mean of the parents that improve the score on questions outside the target.

    Args:
        name: the merge's name in tables.
        validation: a mapping from a name to an evaluation with a `_target_`; the mean of their scores decides.
    """

    name: str
    validation: Mapping[str, Evaluation]

    num_parents = TWO_OR_MORE_PARENTS
    takes_other_base = False

    def __post_init__(self) -> None:
        check_evaluations("merge.validation", self.validation)

    def fingerprint(self) -> str:
        """Return the fingerprints of the validation questions."""
        return fingerprints(self.validation)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return the mean of the parents in `weights`, which the run has reduced to the chosen ones."""
        return lambda name: mean(weights, name)

    def choose(self, num_parents: int, score: Callable[[Sequence[int]], float]) -> Sequence[int]:
        """Return the members' numbers, the best single parent first; parents with equal scores keep their order."""
        single_scores = {parent: score([parent]) for parent in range(num_parents)}
        first, *others = sorted(single_scores, key=lambda parent: -single_scores[parent])
        members, best = [first], single_scores[first]
        for parent in others:
            joint_score = score([*members, parent])
            if joint_score > best:
                members, best = [*members, parent], joint_score
        return members


def mean(weights: Weights, name: str) -> Tensor:
    """Return the mean of a tensor over the parents."""
    total = weights.tuned(0, name).double()
    for parent in range(1, weights.num_parents):
        total += weights.tuned(parent, name)
    return (total / weights.num_parents).float()
