"""Chooses the answer to each prompt that is most likely under the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.selections.completion import MEASURED_BY_LOSS, loss_measurer, prompt_of
from gmt.selections.protocol import Choice, Measures
from gmt.tasks.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Grape:
    """GRAPE (arXiv 2502.04194): chooses for each prompt the example with the lowest loss under the base.

    The loss is the mean over the completion's tokens, so that it does not grow with their number. If two losses are
    equal, the first example is chosen. An example with a prompt of its own is always chosen.

    Args:
        name: the selection's name in tables.
    """

    name: str

    needs_gradients = False
    measured_by = MEASURED_BY_LOSS

    def measurer(self, model: PreTrainedModel) -> Callable[[Tokens], tuple[float]]:
        """Return the function that measures an example's loss."""
        return loss_measurer(model)

    def number(self, examples: Sequence[Tokens]) -> int:
        """Return the number of different prompts.

        Raises:
            UserError: no two examples share a prompt.
        """
        number = len({prompt_of(example) for example in examples})
        if number == len(examples):
            raise UserError(
                f"selection.name={self.name} must have several answers to some prompt to choose between, and each of "
                f"the {number} examples has a prompt of its own"
            )
        return number

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Choose the example with the lowest loss for each prompt."""
        losses = [loss for (loss,) in measures]
        best: dict[tuple[int, ...], int] = {}
        for i, example in enumerate(examples):
            prompt = prompt_of(example)
            if losses[i] < losses[best.setdefault(prompt, i)]:
                best[prompt] = i
        return Choice(indices=list(best.values()), scores=losses)
