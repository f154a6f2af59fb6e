"""What a merge is to the rest of the program. Imports nothing, so that planning can read it for free.

A merge computes weights from those of finished runs, its parents, without training. It is a formula: it reads what it
must of all tensors, and then gives the tensors one by one, so that of k models no more than one tensor each is in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class Weights(Protocol):
    """The weights that a merge reads: of the run's own base, and of its parents.

    Each tensor is a copy in float32 on the CPU. It is named as the model names its parameters; tied ones have one name.
    """

    @property
    def names(self) -> Sequence[str]:
        """Of all tensors, in the model's order."""
        ...

    @property
    def num_parents(self) -> int:
        """The number of parents, at least 1."""
        ...

    @property
    def num_blocks(self) -> int:
        """The number of the model's blocks, which it numbers from 0; 0 for a model that numbers none."""
        ...

    def block(self, name: str) -> int | None:
        """Return the number of the block that a tensor is part of; None for one outside of the blocks."""
        ...

    def base(self, name: str) -> Tensor:
        """Return the base's tensor."""
        ...

    def tuned(self, parent: int, name: str) -> Tensor:
        """Return a parent's tensor.

        Args:
            parent: counted from 0.
            name: of the tensor.
        """
        ...

    def delta(self, parent: int, name: str) -> Tensor:
        """Return what a parent's training changed: its tensor less that of the base that it was trained from.

        It has the shape of the run's own base; rows of a vocabulary that the parent does not know are zero.
        """
        ...


Formula = Callable[["str"], "Tensor"]
"""The merged tensor of a name, float32, in the shape of the base's; it is rounded once to the model's dtype."""

ONE_PARENT = (1, 1)
TWO_OR_MORE_PARENTS = (2, None)


class Merge(Protocol):
    """The settings of a merge: a frozen dataclass that checks its values in `__post_init__`.

    It must be importable without torch: import it in `formula`.
    """

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

    @property
    def num_parents(self) -> tuple[int, int | None]:
        """The least and the most parents that it takes; None for no limit."""
        ...

    @property
    def takes_other_base(self) -> bool:
        """Whether its parents may be trained from another base than its own; it then reads nothing but their deltas."""
        ...

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Read what must be known of all tensors, and return the function that makes one.

        Each tensor may follow from the weights, the settings and the seed alone: not from the order in which tensors
            are
        made, nor from how often.

        Args:
            weights: of base and parents.
            seed: of the merge's draws; it differs between runs with other parents.

        Raises:
            UserError: the merge can't work with this model.
        """
        ...


@runtime_checkable
class ChoosesParents(Merge, Protocol):
    """An optional part of Merge: it merges some of its parents, by what their merges come to in questions of its
    own."""

    @property
    def validation(self) -> object:
        """What is asked: a mapping from a name to an evaluation (gmt.tasks.evaluations)."""
        ...

    def choose(self, num_parents: int, score: Callable[[Sequence[int]], float]) -> Sequence[int]:
        """Return which parents are merged.

        Args:
            num_parents: how many there are.
            score: of the merge of some of them, by number: the mean over `validation`, in [0, 1].
        """
        ...
