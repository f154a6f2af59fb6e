"""A KL term to the base, after Learning without Forgetting (Li and Hoiem, arXiv 1606.09282, Section 3).

A second loss term keeps the model's outputs on the new examples close to the base's. Departures:
conf/method/kl_to_base.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.methods.divergence import divergence, labelled, logits_of
from gmt.methods.sft import Sft

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from gmt.methods.protocol import LossTerm


@dataclass(frozen=True, kw_only=True)
class KlToBase(Sft):
    """Adds strength * KL(base || model) to the loss, a mean over the labelled tokens of a batch.

    Args:
        name: the name of the method in tables.
        strength: the paper's lambda_o; 0 is sft.
    """

    strength: float

    fits_every_model = True

    def __post_init__(self) -> None:
        settings.number("method.strength", self.strength, "must be at least 0", low=0)

    def loss_term(self, model: PreTrainedModel, *, base: Callable[[], PreTrainedModel]) -> LossTerm:
        """Return the term; it runs the base and, once more, the model on each batch."""
        import torch

        old: Any = base()
        old.to(model.device).eval().requires_grad_(False)

        def term(batch: Mapping[str, Any]) -> Tensor:
            with torch.no_grad():
                base_logits = logits_of(old, batch)
            return self.strength * divergence(base_logits, logits_of(model, batch), labelled(batch))

        return term
