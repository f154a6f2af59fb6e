"""The units that a mask keeps or masks as a whole: rows, columns, heads or tensors. The grain `entry` has no units.

Shape suffixes: N entries of a parameter, flattened; U units; A, B: a parameter's entries in the order of their indices
have the shape [A, U, B], so that each unit has A * B entries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmt.masking.parameters import Ranked
from gmt.masking.random_bits import random_bits
from gmt.masking.rule import CHUNK, Scores
from gmt.masking.signals import DRAW, Row

_HEADS_IN_ROWS = ("q_proj", "k_proj", "v_proj", "query", "key", "value")
_HEADS_IN_COLUMNS = ("o_proj", "out_proj")
_HEAD_SIZES = ("head_dim", "attention_head_size")  # attributes of transformers' attention modules


@dataclass(frozen=True, kw_only=True)
class Units:
    """The division of a parameter's entries into units; the entries in order have the shape [A, U, B].

    Args:
        num_before, num_units, num_after: the sizes A, U and B.
    """

    num_before: int
    num_units: int
    num_after: int

    def scores(self, r: Ranked, row: Row) -> Scores:
        """Return the units' scores: the mean magnitude of their entries' scores; for `random`, one draw for each."""
        device = r.gradient_N.device
        if DRAW in row.needs:
            score_U = random_bits(self.num_units, r.key, start=0, device=device)
        else:
            score_U = self._means(r, row)
        return Scores(
            chunks=lambda: iter(torch.split(score_U, CHUNK)),
            dtype=score_U.dtype,
            num_entries=self.num_units,
            shards=None,
            device=device,
        )

    def expanded(self, keep_U: Tensor) -> Tensor:
        """Return a mask of the entries of the kept units, bool of shape [N]."""
        return keep_U.view(1, -1, 1).expand(self.num_before, -1, self.num_after).reshape(-1)

    def _means(self, r: Ranked, row: Row) -> Tensor:
        """Return the units' mean magnitudes; float64 sums make them independent of the division into stretches."""
        sum_U = torch.zeros(self.num_units, dtype=torch.float64, device=r.gradient_N.device)
        if self.num_units == 1:
            for part in r.stretches(row):
                sum_U += row.score(r, part).abs().sum(dtype=torch.float64)
        elif self.num_before == 1:
            step = max(CHUNK // self.num_after, 1)
            for first in range(0, self.num_units, step):
                last = min(first + step, self.num_units)
                part_N = row.score(r, slice(first * self.num_after, last * self.num_after))
                sum_U[first:last] = part_N.view(-1, self.num_after).abs().sum(1, dtype=torch.float64)
        else:
            width = self.num_units * self.num_after
            step = max(CHUNK // width, 1) * width
            for first in range(0, self.num_before * width, step):
                part_N = row.score(r, slice(first, min(first + step, self.num_before * width)))
                part_AUB = part_N.view(-1, self.num_units, self.num_after)
                sum_U += part_AUB.abs().sum((0, 2), dtype=torch.float64)
        return (sum_U / (self.num_before * self.num_after)).float()


def units_of(model: nn.Module, names: Mapping[nn.Parameter, str], grain: str) -> dict[nn.Parameter, Units]:
    """Return the units of parameters.

    The rows of a matrix are its output features, and the columns its input features; each entry of a vector is a row.
    A head is a part of one projection of an attention module: rows of the q, k or v projection, or columns of o.

    Args:
        model: the model that has the parameters.
        names: the names of the ranked parameters.
        grain: `row`, `column`, `head` or `tensor`.

    Raises:
        ValueError: a parameter has no such units; the message names it.
    """
    owners = dict(_owners(model)) if grain != "tensor" else {}
    by_parameter = {}
    for p, name in names.items():
        units = Units(num_before=1, num_units=1, num_after=p.numel())
        if grain != "tensor":
            units = _head_units(p, owners.get(p)) if grain == "head" else _dim_units(p, owners.get(p), grain)  # type: ignore[assignment]
        if units is None:
            shape = tuple(p.shape)
            raise ValueError(f"grain={grain}: {name} of shape {shape} has no {grain}s, so that exclude must name it")
        by_parameter[p] = units
    return by_parameter


@dataclass(frozen=True)
class _Owner:
    """The module of a parameter, the module's name in its parent, and the parent."""

    module: nn.Module
    name: str
    parent: nn.Module


def _owners(model: nn.Module) -> Iterator[tuple[nn.Parameter, _Owner]]:
    for parent in model.modules():
        for name, module in parent.named_children():
            for p in module.parameters(recurse=False):
                yield p, _Owner(module, name, parent)


def is_transposed(module: nn.Module | None) -> bool:
    """Return whether a module's weight has the shape [in, out], as in transformers' Conv1D."""
    return type(module).__name__ == "Conv1D"


def _dim_units(p: nn.Parameter, owner: _Owner | None, grain: str) -> Units | None:
    if p.ndim < 2:
        return Units(num_before=1, num_units=p.numel(), num_after=1) if grain == "row" else None
    if p.ndim > 2:
        return None
    first, second = p.shape
    if (grain == "row") != is_transposed(owner.module if owner else None):
        return Units(num_before=1, num_units=first, num_after=second)
    return Units(num_before=first, num_units=second, num_after=1)


def _head_units(p: nn.Parameter, owner: _Owner | None) -> Units | None:
    size = next((s for key in _HEAD_SIZES if isinstance(s := getattr(owner and owner.parent, key, None), int)), None)
    if owner is None or size is None or is_transposed(owner.module):
        return None
    if owner.name in _HEADS_IN_ROWS and p.ndim in (1, 2) and p.shape[0] % size == 0:
        num_heads = p.shape[0] // size
        return Units(num_before=1, num_units=num_heads, num_after=p.numel() // num_heads)
    if owner.name in _HEADS_IN_COLUMNS and p.ndim == 2 and p.shape[1] % size == 0:
        return Units(num_before=p.shape[0], num_units=p.shape[1] // size, num_after=size)
    return None
