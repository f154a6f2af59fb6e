"""L2-SP (Li, Grandvalet and Davoine, arXiv 1802.01483, Section 3): pulls the weights towards their initial values.

Here all weights come from the base, so the paper's second term, for new weights, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.methods.sft import Sft

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from gmt.methods.protocol import LossTerm


@dataclass(frozen=True, kw_only=True)
class L2ToStartingPoint(Sft):
    """Adds strength / 2 * ||w - w0||^2 to the loss, over all weights that train; w0 is a copy of their initial values.

    Args:
        name: the name of the method in tables.
        strength: the paper's alpha; 0 is sft.
    """

    strength: float

    fits_every_model = True

    def __post_init__(self) -> None:
        settings.number("method.strength", self.strength, "must be at least 0", low=0)

    def loss_term(self, model: PreTrainedModel, *, base: Callable[[], PreTrainedModel]) -> LossTerm:
        """Return the term; it is the same for every batch."""
        start = dict(base().named_parameters())
        pairs = [(p, start[name].detach().to(p.device)) for name, p in model.named_parameters() if p.requires_grad]

        def term(_: Mapping[str, Any]) -> Tensor:
            distance: Any = sum((p.float() - w0.float()).square().sum() for p, w0 in pairs)
            penalty: Tensor = self.strength / 2 * distance
            return penalty

        return term
