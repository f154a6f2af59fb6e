"""Half fine-tuning (Hui et al., arXiv 2404.18466): half of the matrices of each block, chosen anew each epoch.

Departures from the paper: it draws a new half for each of its training rounds, we for each epoch, as the GMT
paper's baseline is described. It freezes one of two layer norms; here they always train. It draws the layers in which
two of three feed-forward matrices are frozen; here these alternate. Embeddings and the output head always train.

The paper has no mixture of experts. Here a matrix of all experts, which transformers holds as one tensor, is one
matrix; shared experts are a feed-forward part of their own; the router always trains.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

# A block's number, the part of the block, and the rest of the name, as transformers names them.
_IN_BLOCK = re.compile(r"^(?P<stack>(?:.*?\.)?)(?P<block>\d+)\.(?P<rest>.+)$")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_FEED_FORWARD = ("mlp", "ffn", "feed_forward", "block_sparse_moe")
_FEED_FORWARD_WITHOUT_PART = ("fc1", "fc2")  # OPT, XGLM, BioGPT
_ROUTERS = ("gate", "router", "shared_expert_gate")  # of a mixture of experts
_NAMED = 4  # matrices that a sentence names

Group = tuple[str, str, int]  # of matrices: their stack of blocks, their part of the block, the block's number


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
            UserError: a block holds matrices of which it is not known whether they are attention or feed-forward, or
                the model has none of either.
        """
        from gmt.masking.parameters import plain_name

        num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        named = [(plain_name(name), parameter) for name, parameter in model.named_parameters()]
        return Halves(_groups(named), num_parameters=num_parameters, seed=seed)


def _groups(named: list[tuple[str, nn.Parameter]]) -> dict[Group, list[nn.Parameter]]:
    """The matrices that can be frozen, by the module that holds them."""
    has_experts = any("experts" in name.split(".") for name, _ in named)
    groups: dict[Group, list[nn.Parameter]] = {}
    kinds, unknown = set(), []
    for name, parameter in named:
        match = _IN_BLOCK.match(name)
        if match is None or parameter.ndim < 2 or name.endswith("bias"):
            continue
        parts = match["rest"].removesuffix(".weight").split(".")
        if has_experts and parts[-1] in _ROUTERS:
            continue
        kind = _kind(parts, is_weight=name.endswith(".weight"), num_dims=parameter.ndim)
        if kind is None:
            unknown.append(name)
            continue
        kinds.add(kind)
        part = ".".join(parts[:-1]) or "mlp"
        groups.setdefault((match["stack"], part, int(match["block"])), []).append(parameter)
    _refuse(unknown, kinds)
    return groups


def _kind(parts: list[str], *, is_weight: bool, num_dims: int) -> str | None:
    """Whether a matrix of a block is of its attention or of its feed-forward part; None if neither is known."""
    is_expert = "experts" in parts
    if (num_dims != 2 or not is_weight) and not is_expert:
        return None
    if parts[0] in _ATTENTION:
        return "attention"
    if parts[0] in _FEED_FORWARD or (len(parts) == 1 and parts[0] in _FEED_FORWARD_WITHOUT_PART):
        return "feed-forward"
    return None


def _refuse(unknown: list[str], kinds: Iterable[str]) -> None:
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise UserError(
            "method=hft must know of every matrix of a block whether it is attention or feed-forward, and does not of "
            f"{', '.join(unknown[:_NAMED])}{more}"
        )
    if lacking := {"attention", "feed-forward"} - set(kinds):
        raise UserError(
            "method=hft needs a model whose blocks hold attention and feed-forward matrices under the names that "
            f"transformers gives them; this one has no {' and no '.join(sorted(lacking))} matrices"
        )


class Halves:
    """Half fine-tuning at work.

    A frozen matrix gets no gradient, so the optimizer passes it by: neither momentum nor weight decay moves it,
    and its moments wait for the epoch in which it trains again.
    """

    def __init__(self, groups: dict[Group, list[nn.Parameter]], *, num_parameters: int, seed: int):
        self._groups = groups
        self._num_parameters = num_parameters
        self._seed = seed
        self._epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Draws the epoch's half, from seed and epoch alone: of three matrices one or two, block by block in turn."""
        self._epoch = epoch
        for group, matrices in self._groups.items():
            frozen = self._frozen(group, epoch)
            for index, matrix in enumerate(matrices):
                matrix.requires_grad_(index not in frozen)

    def _frozen(self, group: Group, epoch: int) -> list[int]:
        """Return which of a group's matrices are frozen in an epoch."""
        _, part, block = group
        num_matrices = len(self._groups[group])
        draw = random.Random(f"{self._seed}/{epoch}/{part}/{block}")
        return draw.sample(range(num_matrices), (num_matrices + block % 2) // 2)

    def facts(self) -> dict[str, float]:
        """The fraction of entries that trains in this epoch; masking takes no time."""
        return {"density": 1 - self._num_frozen() / self._num_parameters, "mask_seconds": 0.0}

    def num_trained(self) -> int:
        """Return the number of entries that train in this epoch."""
        return self._num_parameters - self._num_frozen()

    def _num_frozen(self) -> int:
        return sum(p.numel() for group in self._groups.values() for p in group if not p.requires_grad)

    def num_touched(self) -> int:
        """Return the number of entries that have trained in some epoch so far."""
        never = 0
        for group, matrices in self._groups.items():
            frozen = set.intersection(*(set(self._frozen(group, epoch)) for epoch in range(self._epoch + 1)))
            never += sum(matrices[index].numel() for index in frozen)
        return self._num_parameters - never

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
