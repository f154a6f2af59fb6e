"""Measures how sensitive the loss is to each weight, and decides what SPT trains. Imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gmt.errors import UserError
from gmt.masking.counting import as_bits
from gmt.methods.computed_weights import ComputedWeight, chosen_layers

_INFINITY = 0x7F800000  # the bits of float32's infinity


def candidates(model: Any) -> dict[str, nn.Parameter]:
    """Return the weights of the linear layers except the output layer, and all norms and biases, by name."""
    matrices = {f"{name}.weight" for name in chosen_layers(model, "all-linear")}
    return {name: p for name, p in model.named_parameters() if name in matrices or p.ndim == 1}


def sensitivities(
    model: Any, named: Mapping[str, nn.Parameter], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Return the sum over batches of each entry's squared gradient, float32.

    The model's parameters are frozen afterwards.

    Raises:
        UserError: the sums have NaN or Inf, or are all zero.
    """
    for p in model.parameters():
        p.requires_grad_(False)
    for p in named.values():
        p.requires_grad_(True)
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named.items()}
    for batch in batches:
        model(**batch, use_cache=False).loss.backward()
        for name, p in named.items():
            if p.grad is not None:
                sums[name] += p.grad.float().square()
            p.grad = None
    for p in named.values():
        p.requires_grad_(False)
    largest = max(float(x.max()) for x in sums.values())
    if not 0 < largest < float("inf") or not all(bool(x.isfinite().all()) for x in sums.values()):
        raise UserError(
            "method.num_examples must give examples whose squared gradients are finite and not all zero, got "
            f"{largest} as the largest squared gradient"
        )
    return sums


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Decides whether a matrix gets a LoRA, and whether a vector trains as a whole; see gmt/methods/spt.py."""

    rank: int
    matrix_factor: float
    vector_factor: float

    def is_low_rank(self, shape: torch.Size, num_chosen: int) -> bool:
        """Return whether a matrix with so many chosen entries gets a LoRA."""
        return num_chosen * self.matrix_factor >= self.rank * sum(shape)

    def is_whole(self, shape: torch.Size, num_chosen: int) -> bool:
        """Return whether a vector with so many chosen entries trains."""
        return num_chosen > 0 and num_chosen * self.vector_factor >= shape.numel()

    def num_trained(self, shape: torch.Size, num_chosen: int) -> int:
        """Return how many parameters of a matrix or a vector train; non-decreasing in the number of chosen entries."""
        if len(shape) == 1:
            return shape.numel() if self.is_whole(shape, num_chosen) else 0
        return self.rank * sum(shape) if self.is_low_rank(shape, num_chosen) else num_chosen


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parts of a model that train.

    Args:
        low_rank: names of the layers that get a LoRA.
        entries: indices of the entries that train, int64 of shape [K], by the name of their layer.
        whole: names of the vectors that train.
    """

    low_rank: list[str] = field(default_factory=list)
    entries: dict[str, Tensor] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)


def plan(measured: Mapping[str, Tensor], rule: Rule, budget: int) -> Plan:
    """Return the parts that train if as many of the most sensitive entries are chosen as the budget allows.

    Entries of equal sensitivity are chosen together or not at all, and entries of sensitivity zero never.

    Args:
        measured: the sensitivities by the name of the parameter.
        rule: decides which part of each parameter trains.
        budget: the most parameters that may train.
    """
    bits = {name: as_bits(x.flatten()) for name, x in measured.items()}
    low, high = 0, _INFINITY  # the threshold lies in [low, high]
    while low < high:
        middle = (low + high) // 2
        counts = {name: int((x > middle).sum()) for name, x in bits.items()}
        if sum(rule.num_trained(measured[name].shape, count) for name, count in counts.items()) <= budget:
            high = middle
        else:
            low = middle + 1
    parts = Plan()
    for name, x in bits.items():
        shape, index = measured[name].shape, (x > low).nonzero().flatten()
        layer = name.removesuffix(".weight")
        if len(shape) == 1:
            parts.whole.extend([name] * rule.is_whole(shape, len(index)))
        elif rule.is_low_rank(shape, len(index)):
            parts.low_rank.append(layer)
        elif len(index):
            parts.entries[layer] = index
    return parts


class SparseChange(ComputedWeight):
    """Adds trained values to some entries of a weight.

    Args:
        index: the indices of the entries, int64 of shape [K].
    """

    def __init__(self, index: Tensor):
        super().__init__()
        self.register_buffer("index", index)
        self.values = nn.Parameter(torch.zeros(len(index), device=index.device))

    def compute(self, weight: Tensor) -> Tensor:
        """Return the weight with the values added."""
        index: Any = self.index
        changed = weight.float().flatten().index_add(0, index, self.values)
        return changed.view(weight.shape).to(weight.dtype)

    def learnt(self) -> dict[str, Tensor]:
        """Return the values and their indices."""
        index: Any = self.index
        return {"index": index, "values": self.values}
