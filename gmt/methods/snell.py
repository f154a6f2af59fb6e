"""SNELL (Shen et al., arXiv 2411.01800): a sparse change of full rank, computed from two small factors by a kernel.

Entry (i, j) of a matrix's change is scale * (|a_i - b_j| - |a'_i - b'_j|), with rows a, a' for each output and b, b'
for each input, of rank / 2 numbers each, and Euclidean norms. In every forward pass the entries whose magnitude is
below a quantile are set to zero. Departures: at the start a = a' and b = b', so that the change is zero, unlike the
authors'. The remaining entries have the kernel's value w; the authors' code uses w |w| with |w| as a constant, so that
a change of zero would never move. Entries that tie at the quantile remain, so that none is set to zero at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError
from gmt.methods.adapters import Unmasked
from gmt.methods.layer_settings import check_layers, check_targets

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.kernel_change import KernelChange
    from gmt.methods.reshaped import Reshaped


@dataclass(frozen=True, kw_only=True)
class Snell:
    """Trains two factors for each chosen matrix.

    Args:
        name: the name of the method in tables.
        rank: the length of the vector for each input and each output of a matrix; even.
        scale: the kernel's factor.
        sparsity: the share of each matrix's change that is set to zero, in [0, 1).
        targets: `all-linear`, all linear layers but the output's, or a list of names or ends of names.
        layers: numbers of the model's layers, from 0 and -1 for the last, whose matrices change; null for all.
    """

    name: str
    rank: int
    scale: float
    sparsity: float
    targets: str | Sequence[str]
    layers: Sequence[int] | None

    def __post_init__(self) -> None:
        if settings.integer("method.rank", self.rank, low=2) % 2:
            raise UserError(f"method.rank must be even, since the kernel has two halves, got {self.rank}")
        settings.number("method.scale", self.scale, "must be above 0", low=0, open_low=True)
        settings.number("method.sparsity", self.sparsity, "must lie in [0, 1)", low=0, high=1)
        check_targets(self.targets)
        check_layers(self.layers)

    @property
    def target_density(self) -> None:
        """None: every factor moves."""
        return None

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Reshaped:
        """Freeze the model, and put the changes in.

        Raises:
            UserError: the model has no such layers, or the rank is above a matrix's smaller side.
        """
        from gmt.methods.computed_weights import ComputedWeights, chosen_layers
        from gmt.methods.kernel_change import KernelChange

        layers = chosen_layers(model, self.targets, self.layers)
        for name, layer in layers.items():
            if self.rank > (side := min(layer.weight.shape)):
                raise UserError(f"method.rank must be at most {side}, the smaller side of {name}, got {self.rank}")

        def make(layer: nn.Linear) -> KernelChange:
            return KernelChange(layer.weight, rank=self.rank, scale=self.scale, sparsity=self.sparsity)

        return ComputedWeights(model, layers, make, "factors.safetensors")

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Return an attached method that does nothing, since the factors are in the model."""
        return Unmasked()
