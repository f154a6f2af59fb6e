"""Half fine-tuning (Hui et al., arXiv 2404.18466): half of the matrices of each block, chosen anew each epoch.

Departures from the paper: it draws a new half for each of its training rounds, we for each epoch, as the GMT
paper's baseline is described. Layer norms, embeddings and the output head always train.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

# The block's number and the kind of module, as transformers names them in Llama, Mistral, Qwen and their kin.
_MATRIX = re.compile(r"\.(?P<block>\d+)\.(?P<kind>self_attn|mlp)\.\w+\.weight$")


@dataclass(frozen=True, kw_only=True)
class HalfFineTuning:
    """Freezes half of the attention and half of the feed-forward matrices; it has no settings."""

    name: str

    @property
    def density_asked(self) -> None:
        """It asks for half of the matrices, whatever share of all entries that is."""
        return None

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Halves:
        """Finds the matrices that can be frozen.

        Raises:
            UserError: the model has no matrices under the names that are known.
        """
        groups: dict[tuple[str, int], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if match := _MATRIX.search(name):
                groups.setdefault((match["kind"], int(match["block"])), []).append(parameter)
        if not groups:
            raise UserError("method=hft needs a model whose blocks hold self_attn and mlp matrices; this one has none")
        num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return Halves(groups, num_parameters=num_parameters, seed=seed)


class Halves:
    """Half fine-tuning at work.

    A frozen matrix gets no gradient, so the optimizer passes it by: neither momentum nor weight decay moves it,
    and its moments wait for the epoch in which it trains again.
    """

    def __init__(self, groups: dict[tuple[str, int], list[nn.Parameter]], *, num_parameters: int, seed: int):
        self._groups = groups
        self._num_parameters = num_parameters
        self._seed = seed

    def begin_epoch(self, epoch: int) -> None:
        """Draws the epoch's half, from seed and epoch alone: of three matrices one or two, block by block in turn."""
        for (kind, block), matrices in self._groups.items():
            num_frozen = (len(matrices) + block % 2) // 2
            frozen = random.Random(f"{self._seed}/{epoch}/{kind}/{block}").sample(range(len(matrices)), num_frozen)
            for index, matrix in enumerate(matrices):
                matrix.requires_grad_(index not in frozen)

    def facts(self) -> dict[str, float]:
        """The fraction of entries that trains in this epoch; masking takes no time."""
        frozen = sum(p.numel() for group in self._groups.values() for p in group if not p.requires_grad)
        return {"density": 1 - frozen / self._num_parameters, "mask_seconds": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """Holds nothing: the half follows from seed and epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing."""

    def detach(self) -> None:
        """Lets every matrix train again."""
        for group in self._groups.values():
            for matrix in group:
                matrix.requires_grad_(True)
