"""BitFit (Ben Zaken et al., arXiv 2106.10199): trains the biases and nothing else.

The paper also trains a new output head. A language model already has one, which is not trained here.
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
        name: the method's name in tables.
    """

    name: str

    @property
    def target_density(self) -> None:
        """None: the method masks nothing."""
        return

    def reshape(self, model: PreTrainedModel, *, seed: int) -> TrainedPart:
        """Freeze all parameters except the biases; add no modules.

        Raises:
            UserError: the model has no biases.
        """
        named = dict(model.named_parameters())
        biases = {name: parameter for name, parameter in named.items() if name.endswith("bias")}
        if not biases:
            endings = sorted({".".join(name.split(".")[-2:]) for name in named})
            raise UserError(
                f"method {self.name} trains biases, and a model of type {model.config.model_type} has none: its "
                f"parameters are {', '.join(endings)}"
            )
        return TrainedPart(model, biases, file_name="biases.safetensors")

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Return an attached method that does nothing, since the optimizer has the biases only."""
        return Unmasked()
