"""The protocol of merges. Imports no torch, so that planning costs little.

A merge computes weights from the weights of finished runs, its parents, without training. It first reads the facts that
depend on all tensors, and then computes the tensors one by one: memory holds one tensor of each model at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class Weights(Protocol):
    """The weights that a merge reads: those of the run's own base, and those of its parents.

    Each tensor is a copy in float32 on the CPU. Names are those of the model's parameters; tied parameters share one
    name.
    """

    @property
    def names(self) -> Sequence[str]:
        """The names of all tensors, in the model's order."""
        ...

    @property
    def num_parents(self) -> int:
        """The number of parents, at least 1."""
        ...

    @property
    def num_blocks(self) -> int:
        """The number of the model's numbered blocks; 0 if the model numbers no blocks."""
        ...

    def block(self, name: str) -> int | None:
        """Return the number of a tensor's block, counted from 0; None for a tensor outside the blocks."""
        ...

    def base(self, name: str) -> Tensor:
        """Return the base's tensor."""
        ...

    def tuned(self, parent: int, name: str) -> Tensor:
        """Return a parent's tensor.

        Args:
            parent: the parent's number, counted from 0.
            name: the tensor's name.
        """
        ...

    def delta(self, parent: int, name: str) -> Tensor:
        """Return a parent's delta: its tensor minus the tensor of the base that the parent was trained from.

        The delta has the shape of the run's own base. Where that base has more rows of the vocabulary than the
        parent's base, the added rows are zero.
        """
        ...


Formula = Callable[["str"], "Tensor"]
"""Returns the merged tensor of a name: float32, in the shape of the base's tensor. The run rounds it once, to the
model's dtype."""

Gradients = Callable[[Formula], "Mapping[str, Tensor]"]
"""Returns the gradients of the loss on the next mini-batch at the merged tensors, by name: float32 on the CPU."""

ONE_PARENT = (1, 1)
TWO_OR_MORE_PARENTS = (2, None)


class Merge(Protocol):
    """The settings of a merge: a frozen dataclass that checks its values in `__post_init__`.

    Its module must be importable without torch: import torch in `formula`.
    """

    @property
    def name(self) -> str:
        """The merge's name in configs, tables and MLflow."""
        ...

    @property
    def num_parents(self) -> tuple[int, int | None]:
        """The fewest and the most parents that the merge takes, e.g. ONE_PARENT; None if their number has no limit."""
        ...

    @property
    def takes_other_base(self) -> bool:
        """Whether parents may come from another base than the run's own; the merge then reads only their deltas."""
        ...

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Read the facts that depend on all tensors, and return the function that computes one tensor.

        Each tensor must depend on the weights, the settings and the seed alone: neither the order in which tensors are
        computed nor the number of calls may change it.

        Args:
            weights: the weights of base and parents.
            seed: the seed of random draws; runs with different parents have different seeds.

        Raises:
            UserError: the merge can't work with this model.
        """
        ...


@runtime_checkable
class ChoosesParents(Merge, Protocol):
    """An optional part of Merge: the merge chooses among its parents, by the scores of trial merges on questions of its
    own."""

    @property
    def validation(self) -> object:
        """The questions: a mapping from a name to an evaluation (gmt.tasks.evaluations)."""
        ...

    def choose(self, num_parents: int, score: Callable[[Sequence[int]], float]) -> Sequence[int]:
        """Return the numbers of the parents to merge, counted from 0.

        Args:
            num_parents: the number of parents.
            score: merges the parents with the given numbers, and returns the mean score over `validation`, in [0, 1].
        """
        ...


@runtime_checkable
class LearnsFromExamples(Merge, Protocol):
    """An optional part of Merge: its formula is learnt from the loss on training examples of the run's task."""

    @property
    def num_steps(self) -> int:
        """Number of mini-batches that it learns from; with 0, `formula` is called instead."""
        ...

    @property
    def batch_size(self) -> int:
        """Number of rows of a mini-batch."""
        ...

    def learnt_formula(self, weights: Weights, gradients: Gradients) -> Formula:
        """Return the function that computes one tensor, as `formula` does.

        Args:
            weights: the weights of base and parents.
            gradients: computes gradients; call it `num_steps` times.
        """
        ...


def learns(merge: Merge | None) -> TypeGuard[LearnsFromExamples]:
    """Return whether a merge learns from examples with its settings."""
    return isinstance(merge, LearnsFromExamples) and merge.num_steps > 0
