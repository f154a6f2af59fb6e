"""Layer-wise learning rates: a lower layer learns more slowly (Howard and Ruder, arXiv 1801.06146, Section 3.2).

In the form of Clark et al. (ELECTRA, arXiv 2003.10555, Appendix B): the rate falls by one factor from layer to layer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError
from gmt.methods.sft import Dense

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.protocol import ParameterGroup

_BLOCK = re.compile(r"^(?P<stack>(?:.*?\.)?)(?P<number>\d+)\.")


@dataclass(frozen=True, kw_only=True)
class LayerwiseRates:
    """Trains every parameter by train.optimizer, with a learning rate for each layer.

    Args:
        name: the name of the method in tables.
        rate_decay: a layer's learning rate divided by that of the layer above, in (0, 1]; 1 is sft. Parameters outside
            blocks and embeddings, such as an output head, have train.learning_rate. The embeddings, and a head that
            shares their weights, have the lowest rate.
    """

    name: str
    rate_decay: float

    def __post_init__(self) -> None:
        settings.number(
            "method.rate_decay", self.rate_decay, "must lie in (0, 1]", low=0, open_low=True, high=1, open_high=False
        )

    @property
    def target_density(self) -> float:
        """1: every step updates all entries."""
        return 1.0

    def groups(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        """Return each group split into one group for each depth, with that depth's learning rate.

        Raises:
            UserError: the model has no numbered blocks.
        """
        depths = _depths(model)
        split: list[ParameterGroup] = []
        for group in groups:
            by_depth: dict[int, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                by_depth[depths[p]].append(p)
            split += [
                {**group, "params": params, "lr": group["lr"] * self.rate_decay**depth}
                for depth, params in sorted(by_depth.items())
            ]
        return split

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Dense:
        """Return an attached method that does nothing, since the groups have the rates."""
        return Dense()


def _depths(model: nn.Module) -> dict[nn.Parameter, int]:
    """Return the number of layers from each parameter up to the output head; a tied parameter has its first name."""
    from torch import nn

    tables = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    blocks = {name: match for name, _ in model.named_parameters() if (match := _BLOCK.match(name))}
    if not blocks:
        raise UserError("method=layerwise needs a model whose blocks are numbered; this one has none")
    height: dict[str, int] = defaultdict(int)
    for match in blocks.values():
        height[match["stack"]] = max(height[match["stack"]], int(match["number"]) + 1)
    lowest = max(height.values()) + 1

    def depth(name: str, p: nn.Parameter) -> int:
        if (match := blocks.get(name)) is not None:
            return height[match["stack"]] - int(match["number"])
        return lowest if p in tables else 0

    return {p: depth(name, p) for name, p in model.named_parameters()}
