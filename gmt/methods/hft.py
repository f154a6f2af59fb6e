"""Half fine-tuning (Hui et al., arXiv 2404.18466): trains half of the matrices of each block, chosen anew each epoch.

Departures: the paper draws a new half for each training of a sequence; here a half is drawn for each epoch, as the GMT
paper describes its baseline. The paper freezes one of two layer norms, and draws the layers in which two of three
feed-forward matrices are frozen; `norms: half` and `larger_half: drawn` do so. By default norms train and these layers
alternate. Embeddings, the norm outside the blocks and the output head always train.

The paper has no mixture of experts. Here a matrix of all experts, which transformers holds as one tensor, is one
matrix; shared experts are a feed-forward part of their own; the router always trains.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError
from gmt.listed import some

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

# A block's number, the part of the block, and the rest of the name, as transformers names them.
_IN_BLOCK = re.compile(r"^(?P<stack>(?:.*?\.)?)(?P<block>\d+)\.(?P<rest>.+)$")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_FEED_FORWARD = ("mlp", "ffn", "feed_forward", "block_sparse_moe")
_FEED_FORWARD_WITHOUT_PART = ("fc1", "fc2")  # OPT, XGLM, BioGPT
_ROUTERS = ("gate", "router", "shared_expert_gate")  # of a mixture of experts
_NORMS = "norms"  # the name of the part that holds a block's norms
LARGER_HALF = ("alternating", "drawn")
NORMS = ("trained", "half")

Group = tuple[str, str, int]  # identifies units: their stack of blocks, their part of the block, the block's number
Unit = list["nn.Parameter"]  # parameters that are frozen together: a matrix, or a norm's weight and bias


@dataclass(frozen=True, kw_only=True)
class HalfFineTuning:
    """Freezes half of the attention and half of the feed-forward matrices.

    Args:
        name: the name of the method in tables.
        larger_half: the layers in which a part with an odd number of matrices freezes the larger half: every second one
            (`alternating`), or half of the layers, drawn anew each epoch (`drawn`).
        norms: whether all norms are `trained`, or only `half` of a block's.
    """

    name: str
    larger_half: str = settings.neutral("alternating")
    norms: str = settings.neutral("trained")

    def __post_init__(self) -> None:
        settings.one_of("method.larger_half", self.larger_half, LARGER_HALF)
        settings.one_of("method.norms", self.norms, NORMS)

    @property
    def target_density(self) -> None:
        """None: the method sets a share of the matrices, not of the entries."""
        return None

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Halves:
        """Find the matrices that can be frozen, and return the method at work.

        Raises:
            UserError: a block has a matrix that is not known to be attention or feed-forward, or the model lacks
                attention or feed-forward matrices.
        """
        from gmt.masking.parameters import plain_name

        num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        named = [(plain_name(name), parameter) for name, parameter in model.named_parameters()]
        groups = _groups(named, self.name)
        if self.norms == "half":
            groups |= _norms(named)
        return Halves(groups, num_parameters=num_parameters, seed=seed, is_drawn=self.larger_half == "drawn")


def _groups(named: list[tuple[str, nn.Parameter]], method: str) -> dict[Group, list[Unit]]:
    """Return the matrices that can be frozen, by the module that holds them."""
    has_experts = any("experts" in name.split(".") for name, _ in named)
    groups: dict[Group, list[Unit]] = {}
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
        groups.setdefault((match["stack"], part, int(match["block"])), []).append([parameter])
    _refuse(method, unknown, kinds)
    return groups


def _norms(named: list[tuple[str, nn.Parameter]]) -> dict[Group, list[Unit]]:
    """Return the norms of each block, each with its weight and, if it has one, its bias.

    Raises:
        UserError: no block has a norm with a weight.
    """
    norms: dict[Group, dict[str, Unit]] = {}
    for name, parameter in named:
        match = _IN_BLOCK.match(name)
        if match is not None and parameter.ndim == 1 and name.endswith(".weight"):
            units = norms.setdefault((match["stack"], _NORMS, int(match["block"])), {})
            units[name.removesuffix(".weight")] = [parameter]
    if not norms:
        raise UserError(
            "method.norms must be trained for this model, whose blocks have no norms with weights, got half"
        )
    units = {name: unit for of_block in norms.values() for name, unit in of_block.items()}
    for name, parameter in named:
        if name.endswith(".bias") and (unit := units.get(name.removesuffix(".bias"))) is not None:
            unit.append(parameter)
    return {group: list(of_block.values()) for group, of_block in norms.items()}


def _kind(parts: list[str], *, is_weight: bool, num_dims: int) -> str | None:
    """Return `attention` or `feed-forward`, the part of a block that a matrix belongs to; None if it is unknown."""
    is_expert = "experts" in parts
    if (num_dims != 2 or not is_weight) and not is_expert:
        return None
    if parts[0] in _ATTENTION:
        return "attention"
    if parts[0] in _FEED_FORWARD or (len(parts) == 1 and parts[0] in _FEED_FORWARD_WITHOUT_PART):
        return "feed-forward"
    return None


def _refuse(method: str, unknown: list[str], kinds: Iterable[str]) -> None:
    if unknown:
        raise UserError(
            f"method={method} must know whether each matrix of a block is attention or feed-forward, and can't tell it "
            f"for {some(unknown, most=4)}"
        )
    if missing := {"attention", "feed-forward"} - set(kinds):
        raise UserError(
            f"method={method} needs a model whose blocks hold attention and feed-forward matrices under the names that "
            f"transformers gives them; this one has no {' and no '.join(sorted(missing))} matrices"
        )


class Halves:
    """Half fine-tuning at work.

    A frozen matrix gets no gradient, so the optimizer skips it: neither momentum nor weight decay moves it, and its
    moments stay until an epoch in which it trains again.
    """

    def __init__(self, groups: dict[Group, list[Unit]], *, num_parameters: int, seed: int, is_drawn: bool):
        self._groups = groups
        self._num_parameters = num_parameters
        self._seed = seed
        self._is_drawn = is_drawn
        self._epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Freeze the epoch's half, which depends on seed and epoch alone; of three matrices one or two are frozen."""
        self._epoch = epoch
        frozen = self._frozen(epoch)
        for group, units in self._groups.items():
            for index, unit in enumerate(units):
                for parameter in unit:
                    parameter.requires_grad_(index not in frozen[group])

    def _frozen(self, epoch: int) -> dict[Group, list[int]]:
        """Return which of each group's units are frozen in an epoch."""
        with_larger_half = self._with_larger_half(epoch)
        frozen = {}
        for group, units in self._groups.items():
            _, part, block = group
            draw = random.Random(f"{self._seed}/{epoch}/{part}/{block}")
            frozen[group] = draw.sample(range(len(units)), (len(units) + (group in with_larger_half)) // 2)
        return frozen

    def _with_larger_half(self, epoch: int) -> set[Group]:
        """Return the groups that freeze the larger half, where the number of units is odd."""
        if not self._is_drawn:
            return {group for group in self._groups if group[2] % 2}
        of_part: dict[tuple[str, str], list[Group]] = {}
        for group in self._groups:
            of_part.setdefault(group[:2], []).append(group)
        drawn: set[Group] = set()
        for (stack, part), groups in of_part.items():
            draw = random.Random(f"{self._seed}/{epoch}/{stack}/{part}")
            drawn |= set(draw.sample(groups, (len(groups) + draw.randrange(2)) // 2))
        return drawn

    def facts(self) -> dict[str, float]:
        """Return the fraction of entries that train in this epoch; masking takes no time."""
        return {"density": 1 - (self._num_parameters - self.num_trained()) / self._num_parameters, "mask_seconds": 0.0}

    def num_trained(self) -> int:
        """Return the number of entries that train in this epoch."""
        return self._num_parameters - sum(p.numel() for p in self._parameters() if not p.requires_grad)

    def num_touched(self) -> int:
        """Return the number of entries that have trained in some epoch so far."""
        of_epochs = [self._frozen(epoch) for epoch in range(self._epoch + 1)]
        never = 0
        for group, units in self._groups.items():
            frozen = set.intersection(*(set(of_epoch[group]) for of_epoch in of_epochs))
            never += sum(p.numel() for index in frozen for p in units[index])
        return self._num_parameters - never

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, since the half follows from seed and epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""

    def detach(self) -> None:
        """Let every matrix train again."""
        for parameter in self._parameters():
            parameter.requires_grad_(True)

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for units in self._groups.values() for unit in units for parameter in unit)
