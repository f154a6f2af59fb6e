"""Of several answers to the same prompt, the one that the base finds most likely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError
from gmt.selections.completion import MEASURED_BY_LOSS, loss_measurer, prompt_of
from gmt.selections.protocol import Choice, Measures
from gmt.tasks.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Grape:
    """GRAPE (arXiv 2502.04194): of the examples with one prompt, trains on that with the lowest loss under the base.

    The loss is the mean over the completion's tokens, so that length plays no part; of equals the first is taken. An
    example whose prompt stands alone is trained on.

    Args:
        name: the word for it in tables.
    """

    name: str

    needs_gradients = False
    measured_by = MEASURED_BY_LOSS

    def __post_init__(self) -> None:
        settings.text("selection.name", self.name)

    def measurer(self, model: PreTrainedModel) -> Callable[[Tokens], tuple[float]]:
        """Measure losses."""
        return loss_measurer(model)

    def number(self, examples: Sequence[Tokens]) -> int:
        """Return the number of different prompts.

        Raises:
            UserError: each prompt stands alone, so that there is nothing to choose.
        """
        number = len({prompt_of(example) for example in examples})
        if number == len(examples):
            raise UserError(
                f"selection.name={self.name} must have several answers to some prompt to choose between, and each of "
                f"the {number} examples has a prompt of its own"
            )
        return number

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Take the best of each prompt."""
        losses = [loss for (loss,) in measures]
        best: dict[tuple[int, ...], int] = {}
        for i, example in enumerate(examples):
            other = best.setdefault(prompt_of(example), i)
            if losses[i] < losses[other]:
                best[prompt_of(example)] = i
        return Choice(indices=list(best.values()), scores=losses)
