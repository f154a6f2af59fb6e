"""BitFit (Ben Zaken et al., arXiv 2106.10199): the biases are trained and nothing else.

The paper trains a new output head too. A language model has one already, which is not trained here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.methods.adapters import Unmasked
from gmt.methods.trained_part import TrainedPart

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class BitFit:
    """Trains every parameter whose name ends with bias; it has no settings.

    Args:
        name: the word for it in tables.
    """

    name: str

    @property
    def density_asked(self) -> None:
        """Nothing is masked."""
        return

    def reshape(self, model: PreTrainedModel, *, seed: int) -> TrainedPart:
        """Freezes all but the biases; adds nothing.

        Raises:
            UserError: the model has no biases.
        """
        named = dict(model.named_parameters())
        biases = {name: parameter for name, parameter in named.items() if name.endswith("bias")}
        if not biases:
            kinds = sorted({".".join(name.split(".")[-2:]) for name in named})
            raise UserError(
                f"method {self.name} trains biases, and a model of type {model.config.model_type} has none: its "
                f"parameters are {', '.join(kinds)}"
            )
        return TrainedPart(model, biases, file_name="biases.safetensors")

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Changes nothing: the optimizer has the biases only."""
        return Unmasked()
