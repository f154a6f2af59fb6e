"""Mask fine-tuning (Zhang et al., arXiv 2503.22764, Section 3): a learnt mask over frozen weights.

Each entry of the chosen linear layers has a score. The entries with the largest |score| are kept, and the others are
set to zero. The straight-through estimator uses g * W * sign(S) as the gradient of the scores. Departures: of scores
that tie at the threshold the first are kept, so that the share holds exactly; the authors begin from a fully fine-tuned
model, here the training begins from the run's model (conf/method/mft.yaml says how to name another).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.methods.adapters import Unmasked
from gmt.methods.layer_settings import check_layers, check_targets

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.reshaped import Reshaped


@dataclass(frozen=True, kw_only=True)
class MaskFineTuning:
    """Learns which entries of frozen weights to set to zero.

    Args:
        name: the name of the method in tables.
        sparsity: share of each chosen weight that is set to zero, in [0, 1); 0 leaves the model as it is.
        spread: standard deviation of the scores at the start.
        targets: `all-linear`, all linear layers but the output's, or a list of names or ends of names.
        layers: numbers of the model's layers, from 0 and -1 for the last, whose matrices are masked; null for all.
    """

    name: str
    sparsity: float
    spread: float
    targets: str | Sequence[str]
    layers: Sequence[int] | None

    def __post_init__(self) -> None:
        settings.number("method.sparsity", self.sparsity, "must lie in [0, 1)", low=0, high=1)
        settings.number("method.spread", self.spread, "must be above 0", low=0, open_low=True)
        check_targets(self.targets)
        check_layers(self.layers)

    @property
    def target_density(self) -> None:
        """None: every score moves."""
        return None

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Reshaped:
        """Freeze the model, and put masks over the chosen weights.

        Raises:
            UserError: the model has no such layers.
        """
        from gmt.methods.computed_weights import ComputedWeights, chosen_layers
        from gmt.methods.weight_masks import LargestScores

        def make(layer: nn.Linear) -> LargestScores:
            return LargestScores(layer.weight, sparsity=self.sparsity, spread=self.spread)

        layers = chosen_layers(model, self.targets, self.layers)
        return ComputedWeights(model, layers, make, "masks.safetensors")

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Return an attached method that does nothing, since the masks are in the model."""
        return Unmasked()
