"""Channels of feed-forward parts and heads of attention parts: the rows and columns of the matrices that they couple.

A channel is a row of the up and gate matrices, and a column of the down matrix. A head is a block of rows of q, k and
v, and of columns of o. If several query heads share one head of k and v, they are one unit when k or v is among the
matrices. Knows nothing of masks and optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gmt.errors import UserError
from gmt.masking.parameters import is_linear, layer_of
from gmt.methods.structures import CHANNELS, HEADS

_NAMES = {"up": ("up_proj", "fc1"), "gate": ("gate_proj",), "down": ("down_proj", "fc2")}
_NAMES |= {"q": ("q_proj",), "k": ("k_proj",), "v": ("v_proj",), "o": ("o_proj", "out_proj")}
_BY_COLUMNS = ("down", "o")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A feed-forward or an attention part, whose units are numbered from 0.

    Args:
        modules: the linear modules that train, by short names such as `down`.
        last: the linear module whose inputs are the units' activations.
        num_units: the number of channels, or of heads.
    """

    modules: dict[str, nn.Linear]
    last: nn.Linear
    num_units: int

    def means(self, of_matrix: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean of a tensor's magnitudes over each unit's entries of all matrices, shape [num_units]."""
        sums = torch.zeros(self.num_units, dtype=torch.float64)
        num_entries = 0
        for word, module in self.modules.items():
            x = of_matrix(module.weight).detach().abs().double()
            x = x.T if word in _BY_COLUMNS else x
            sums += x.reshape(self.num_units, -1).sum(1).cpu()
            num_entries += x.numel() // self.num_units
        return (sums / num_entries).float()

    def input_means(self, magnitudes: Tensor) -> Tensor:
        """Return the means, shape [num_units], over each unit's input features of the last module, shape [in]."""
        return magnitudes.reshape(self.num_units, -1).mean(1).cpu()

    def keep_masks(self, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each matrix with a mask of the chosen units' entries, bool of shape [N]; `chosen` is [num_units]."""
        for word, module in self.modules.items():
            rows, columns = module.weight.shape
            if word in _BY_COLUMNS:
                keep = chosen.repeat_interleave(columns // self.num_units)[None].expand(rows, columns)
            else:
                keep = chosen.repeat_interleave(rows // self.num_units)[:, None].expand(rows, columns)
            yield module.weight, keep.flatten().to(module.weight.device)


def coupled_parts(model: nn.Module, matrices: Sequence[str], *, method: str) -> tuple[list[Part], list[Part]]:
    """Return the feed-forward parts and the attention parts of a model that have the given matrices.

    Raises:
        UserError: a layer has no such part, or has experts, or one matrix for several projections.
    """
    named = dict(model.named_parameters())
    if experts := next((name for name, p in named.items() if p.ndim > 2 and "experts" in name.split(".")), None):
        raise UserError(
            f"method={method} chooses channels of plain matrices, and {experts} holds experts as one tensor"
        )
    layers = {layer_of(name) for name, p in named.items() if p.ndim > 1 and layer_of(name) != name}
    parts_by_type = []
    for words, all_words, make in (("channels", CHANNELS, _channels), ("heads", HEADS, _heads)):
        chosen = [word for word in all_words if word in matrices]
        parts: dict[str, Part] = {}
        for name, module in model.named_modules() if chosen else ():
            if (part := make(module, chosen)) is not None:
                parts[name] = part
        numbers = {layer_of(f"{name}.") for name in parts}
        if chosen and (len(parts) != len(layers) or numbers != layers):
            raise UserError(
                f"method={method} needs one part with {' and '.join(words_of(chosen))} in each of the model's "
                f"{len(layers)} layers to choose {words}, got {len(parts)}: method.matrices must leave out "
                f"{', '.join(chosen)} for this model"
            )
        parts_by_type.append(list(parts.values()))
    feed_forward, attention = parts_by_type
    return feed_forward, attention


def words_of(chosen: Sequence[str]) -> list[str]:
    """Return transformers' names of matrices, by their short names."""
    return [" or ".join(_NAMES[word]) for word in chosen]


def _linear(module: nn.Module, word: str) -> nn.Linear | None:
    for name in _NAMES[word]:
        child = getattr(module, name, None)
        if isinstance(child, nn.Linear) and is_linear(child):
            return child
    return None


def _channels(module: nn.Module, chosen: Sequence[str]) -> Part | None:
    down = _linear(module, "down")
    modules = {word: child for word in chosen if (child := _linear(module, word)) is not None}
    if down is None or len(modules) != len(chosen):
        return None
    sides = [m.in_features if word == "down" else m.out_features for word, m in modules.items()]
    return Part(modules=modules, last=down, num_units=down.in_features) if {*sides} == {down.in_features} else None


def _heads(module: nn.Module, chosen: Sequence[str]) -> Part | None:
    q, k, v, o = (_linear(module, word) for word in HEADS)
    size: Any = getattr(module, "head_dim", None)
    if q is None or k is None or v is None or o is None or not isinstance(size, int):
        return None
    if q.out_features != o.in_features or k.out_features != v.out_features:
        return None
    if q.out_features % size or k.out_features % size or q.out_features % k.out_features:
        return None
    narrow = k if {"k", "v"} & {*chosen} else q
    by_word = {"q": q, "k": k, "v": v, "o": o}
    return Part(modules={word: by_word[word] for word in chosen}, last=o, num_units=narrow.out_features // size)
