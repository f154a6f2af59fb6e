"""Chooses examples by their loss under the base: low, high or medium."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.selections.completion import MEASURED_BY_LOSS, loss_measurer
from gmt.selections.fraction import check_fraction, number_of, ordered
from gmt.selections.protocol import Choice, Measures
from gmt.tasks.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class BaseLoss:
    """Ranks examples by the mean loss of their completions' tokens under the base.

    Marion et al., "When Less is More" (arXiv 2309.04564), rank pretraining data by perplexity, the exponential of this
    loss, and keep the same three parts. Departures: the base itself measures, and the loss covers completions only. The
    loss of a preference is that of its preferred answer, because DPO's own loss is log 2 for every example before the
    training.

    Args:
        name: the selection's name in tables.
        keep: `lowest`, `highest`, or `middle`, which leaves out equally many examples below and above; if their
            number is odd, one more above.
        fraction: the fraction of the fitting examples to choose, in (0, 1].
    """

    name: str
    keep: str
    fraction: float

    needs_gradients = False
    measured_by = MEASURED_BY_LOSS

    def __post_init__(self) -> None:
        settings.one_of("selection.keep", self.keep, ("lowest", "highest", "middle"))
        check_fraction(self.fraction)

    def measurer(self, model: PreTrainedModel) -> Callable[[Tokens], tuple[float]]:
        """Return the function that measures an example's loss."""
        return loss_measurer(model)

    def number(self, examples: Sequence[Tokens]) -> int:
        """Return the number that is nearest to the fraction."""
        return number_of(self.fraction, len(examples))

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Rank by loss."""
        losses = [loss for (loss,) in measures]
        ranked = ordered(losses, largest=self.keep == "highest")
        number = self.number(examples)
        first = (len(losses) - number) // 2 if self.keep == "middle" else 0
        return Choice(indices=ranked[first : first + number], scores=losses)
