"""The protocol of selections. Imports no library, so that planning costs little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gmt.tasks.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Measures = Sequence[float]
"""The numbers that were measured on one example; equally many for every example."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen examples.

    Args:
        indices: the chosen examples' indices, each once, in any order; the run trains on them in the task's order.
        scores: the number that each example was ranked by, for the record; None if the examples were not ranked.
    """

    indices: Sequence[int]
    scores: Sequence[float] | None


class Selection(Protocol):
    """The settings of a selection: a frozen dataclass that checks its values in `__post_init__`.

    It chooses among the examples that fit into train.max_length, as tokens, before they are packed; none of them asks a
    question of a target suite. The choice must depend on the arguments and the settings alone.
    """

    @property
    def name(self) -> str:
        """The selection's name in configs, tables and MLflow."""
        ...

    def number(self, examples: Sequence[Tokens]) -> int | None:
        """Return how many examples `choose` will choose; None if that depends on the measures."""
        ...

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Choose examples.

        Args:
            examples: all examples that the run may train on.
            measures: the measures of each example; empty for a selection that does not measure.
            seed: the run's seed, for random draws.
        """
        ...


@runtime_checkable
class MeasuresExamples(Protocol):
    """An optional part of Selection: it measures numbers of each example under the base.

    The base reads one example at a time, so that no number depends on other examples. The run stores each number at
    once: after a kill it measures only the remaining examples, and runs that need the same numbers share them.
    """

    @property
    def needs_gradients(self) -> bool:
        """Whether the measures need the gradient of an example's loss; such a selection is refused for preferences."""
        ...

    @property
    def measured_by(self) -> Mapping[str, Any]:
        """The measure and the settings that change it; selections with equal values share their measures."""
        ...

    def measurer(self, model: PreTrainedModel) -> Callable[[Tokens], Measures]:
        """Return the function that measures an example; its numbers must be finite.

        Args:
            model: the base, in eval mode, on the run's device. Before a run starts, `measurer` is also called with the
                base without weights, on the device `meta`.

        Raises:
            UserError: the measure can't be computed with this model.
        """
        ...


@runtime_checkable
class HasFingerprint(Protocol):
    """An optional part of Selection: it reads data from outside its settings, e.g. a file that they name."""

    def fingerprint(self) -> str:
        """Return a name of the data, e.g. a file's hash; the name enters the run id."""
        ...
