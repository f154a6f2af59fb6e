"""What a selection is to the rest of the program. Imports no library, so that planning can read it for free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gmt.tasks.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Measures = Sequence[float]
"""What was measured on one example: as many numbers for each."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which examples are trained on.

    Args:
        indices: of the chosen among all, each once, in any order: they are trained on in the order of the task.
        scores: by example, what the examples were ranked by, for the record; None where they were not ranked.
    """

    indices: Sequence[int]
    scores: Sequence[float] | None


class Selection(Protocol):
    """The settings of a choice among the training examples: a frozen dataclass that checks its values.

    The examples are those that fit into train.max_length, as tokens, before they are packed; none asks a question of a
    target suite. A choice depends on its arguments and settings alone.
    """

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

    def number(self, examples: Sequence[Tokens]) -> int | None:
        """Return how many examples will be chosen, before anything is measured; None where only the measures tell."""
        ...

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Choose examples.

        Args:
            examples: all, as they may be trained on.
            measures: of each example; empty for a selection that measures nothing.
            seed: of the run, for what is drawn.
        """
        ...


@runtime_checkable
class MeasuresExamples(Protocol):
    """An optional part of Selection: numbers of each example under the base.

    The base sees one example at a time, so that no number depends on the examples beside it. Numbers are kept as they
    come: a run that was killed goes on where it was, and runs that would get the same numbers read them.
    """

    @property
    def needs_gradients(self) -> bool:
        """Whether the measures take a gradient of an example's loss, which a preference has none of."""
        ...

    @property
    def measured_by(self) -> Mapping[str, Any]:
        """Names the measure, with the settings that change it: selections of which it is the same share the numbers."""
        ...

    def measurer(self, model: PreTrainedModel) -> Callable[[Tokens], Measures]:
        """Return the function that measures an example, as finite numbers.

        Args:
            model: the base, in eval mode, on the run's device; also tried without weights, on the device `meta`, before
                a run starts.

        Raises:
            UserError: the model can't be measured so.
        """
        ...


@runtime_checkable
class HasFingerprint(Protocol):
    """An optional part of Selection: it reads data that its settings only name."""

    def fingerprint(self) -> str:
        """Name the data, e.g. by a file's hash; enters the run id."""
        ...
