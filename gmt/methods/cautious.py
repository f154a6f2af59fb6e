"""Cautious AdamW (Liang et al., arXiv 2411.16085): an entry moves only where its momentum and its gradient agree.

The data decide how many entries move, and no ratio does: a control for the masks that rank. The method makes its own
optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.methods.sft import Dense

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.protocol import ParameterGroup
    from gmt.optimizers.cautious import CautiousAdamW


@dataclass(frozen=True, kw_only=True)
class Cautious:
    """Trains every parameter with cautious AdamW; it has no settings but those of `train`."""

    name: str

    @property
    def density_asked(self) -> None:
        """No share is set: every entry that agrees moves."""
        return None

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return cautious AdamW with the settings of `train`."""
        from gmt.optimizers.cautious import CautiousAdamW

        return CautiousAdamW(groups)

    def attach(self, model: nn.Module, optimizer: CautiousAdamW, *, seed: int, facts_every: int) -> CautiousAtWork:
        """Changes nothing."""
        return CautiousAtWork(optimizer)


class CautiousAtWork(Dense):
    """Reports the optimizer's facts; all state is the optimizer's."""

    def __init__(self, optimizer: CautiousAdamW):
        self._optimizer = optimizer

    def facts(self) -> dict[str, float]:
        """Return the fraction of entries that the last step moved."""
        return {"kept_fraction": self._optimizer.kept_fraction}

    def num_trained(self) -> int:
        """The entries whose momentum and gradient agreed at the last step."""
        return self._optimizer.num_moved

    def num_touched(self) -> None:
        """Unknown: other entries agree at each step, and none of them are remembered."""
