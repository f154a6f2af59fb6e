"""Localized fine-tuning (LocFT-BF; github.com/ICT-STAR/LocFT): trains one module or some layers, and freezes the rest.

It is a control for the sparse arms: the trained parameters are chosen by hand, and not by a score. Departures: the
authors edit facts and stop at a mean loss below 0.01; here every training takes train.num_epochs. Their settings for a
7B or 8B model are Adam (train.weight_decay=0) at 5e-4, batches of 100 and 25 epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.methods.adapters import Unmasked
from gmt.methods.layer_settings import check_layers, in_layers
from gmt.methods.trained_part import TrainedPart

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class LocalizedTuning:
    """Trains the parameters whose names match a pattern and that lie in one of the layers.

    Args:
        name: the name of the method in tables.
        patterns: patterns (as in a shell) of the names of parameters that train.
        layers: the numbers of their layers, from 0; -1 is the last layer. null: any layer, and parameters outside
            the layers too.
    """

    name: str
    patterns: Sequence[str]
    layers: Sequence[int] | None

    def __post_init__(self) -> None:
        is_list = isinstance(self.patterns, Sequence) and not isinstance(self.patterns, str)
        if not is_list or not self.patterns or not all(isinstance(p, str) and p for p in self.patterns):
            raise UserError(f"method.patterns must be a list of at least one name pattern, got {self.patterns!r}")
        check_layers(self.layers)

    @property
    def target_density(self) -> None:
        """None: the method masks nothing."""
        return

    def reshape(self, model: PreTrainedModel, *, seed: int) -> TrainedPart:
        """Freeze all parameters but the chosen ones.

        Raises:
            UserError: the model lacks a layer, or a pattern fits no parameter of the layers.
        """
        named = dict(model.named_parameters())
        if self.layers is not None:
            named = in_layers(model, named, self.layers)
        chosen: dict[str, nn.Parameter] = {}
        for pattern in self.patterns:
            fitting = _fitting(named, pattern)
            if not fitting:
                endings = sorted({".".join(name.split(".")[-2:]) for name in named})
                where = "the model" if self.layers is None else f"layers {', '.join(map(str, self.layers))}"
                raise UserError(
                    f"method.patterns must fit names of parameters of {where}, which end in {', '.join(endings)}, "
                    f"got {pattern!r}"
                )
            chosen |= fitting
        return TrainedPart(model, chosen, file_name="trained.safetensors")

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Return an attached method that does nothing, since the optimizer has the chosen parameters only."""
        return Unmasked()


def _fitting(named: dict[str, nn.Parameter], pattern: str) -> dict[str, nn.Parameter]:
    from gmt.masking.parameters import is_excluded

    return {name: p for name, p in named.items() if is_excluded(name, (pattern,))}
