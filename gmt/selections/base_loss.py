"""The examples that the base finds easy, hard, or neither."""

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
    """Ranks examples by the mean loss, a token, of their completions under the base.

    Marion et al., "When Less is More" (arXiv 2309.04564), rank pretraining data by perplexity, the exponential of this
    loss, in the same three ways. Departure: the base itself measures, and completions only. Of a preference, the answer
    that is preferred counts; DPO's own loss is log 2 for all before the training.

    Args:
        name: the word for it in tables.
        keep: `lowest`, `highest`, or `middle`: as many are left out on both sides, and an odd one above.
        fraction: of the examples that fit, in (0, 1].
    """

    name: str
    keep: str
    fraction: float

    needs_gradients = False
    measured_by = MEASURED_BY_LOSS

    def __post_init__(self) -> None:
        settings.text("selection.name", self.name)
        settings.one_of("selection.keep", self.keep, ("lowest", "highest", "middle"))
        check_fraction(self.fraction)

    def measurer(self, model: PreTrainedModel) -> Callable[[Tokens], tuple[float]]:
        """Measure losses."""
        return loss_measurer(model)

    def number(self, examples: Sequence[Tokens]) -> int:
        """Return the fraction of the examples."""
        return number_of(self.fraction, len(examples))

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Rank by loss."""
        losses = [loss for (loss,) in measures]
        ranked = ordered(losses, largest=self.keep == "highest")
        number = self.number(examples)
        first = (len(losses) - number) // 2 if self.keep == "middle" else 0
        return Choice(indices=ranked[first : first + number], scores=losses)
