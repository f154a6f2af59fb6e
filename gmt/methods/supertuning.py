"""A sparse delta of linear layers as an adapter of peft's Super-Tuning (arXiv 2607.09287). Only functions import peft.

peft's layers hold indices and float32 values, which are added to the weight in the weight's dtype. All layers of an
adapter must have the same fraction of entries, so layers with fewer are padded by entries of value 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

WEIGHT = ".weight"


@dataclass(frozen=True, kw_only=True)
class AdapterPart:
    """The adapter of one layer.

    Args:
        indices_K: indices into the flattened weight, int32; padded.
        values_K: the values that are added to the weight at these indices, float32.
        num_inexact: the number of entries whose sum differs from the tuned value, since the difference is rounded.
    """

    indices_K: Tensor
    values_K: Tensor
    num_inexact: int


def indices_key(layer: str) -> str:
    """Return the name of a layer's indices in peft's file."""
    return f"base_model.model.{layer}.supertuning_indices"


def values_key(layer: str) -> str:
    """Return the name of a layer's values in peft's file."""
    return f"base_model.model.{layer}.supertuning_values"


def check_peft() -> None:
    """Raise UserError if the installed peft has no Super-Tuning."""
    import peft

    if not hasattr(peft, "SupertuningConfig"):
        raise UserError(f"gmt export --peft needs peft 0.21 or newer, got {peft.__version__}")


def linear_layers(model: nn.Module) -> dict[str, str]:
    """Return the names of the layers to which an adapter can be added, by the name of their weight.

    A weight that a second module shares is left out, since an adapter of the layer would not change the other module.
    """
    from torch import nn

    num_modules = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        f"{name}{WEIGHT}": name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and num_modules[id(module.weight)] == 1
    }


def sparsity_for(counts: Mapping[str, tuple[int, int]]) -> float:
    """Return the largest sparsity at which each layer has room for its changed entries.

    Args:
        counts: the numbers of changed entries and of all entries of each layer.
    """
    sparsity = 1 - max(num_changed / num_all for num_changed, num_all in counts.values())
    while any(padded_size(num_all, sparsity) < num_changed for num_changed, num_all in counts.values()):
        sparsity = math.nextafter(sparsity, 0)
    return sparsity


def padded_size(num_all: int, sparsity: float) -> int:
    """Return the number of entries that peft gives a layer (SupertuningLayer._num_trainable)."""
    return int(num_all * (1 - sparsity))


def adapter_part(tuned: Tensor, base: Tensor, size: int) -> AdapterPart:
    """Return the adapter of a layer.

    Args:
        tuned, base: the layer's weights, in the same shape and dtype.
        size: the number of the adapter's entries, at least the number of changed entries.
    """
    import torch

    from gmt.masking.deltas import changed_entries

    tuned_N, base_N = tuned.reshape(-1), base.reshape(-1)
    changed_N = changed_entries(tuned, base)
    indices_K = changed_N.nonzero().view(-1)
    padding = (~changed_N).nonzero().view(-1)[: size - len(indices_K)]
    values_K = (tuned_N[indices_K].float() - base_N[indices_K].float()).to(tuned.dtype)
    num_inexact = int((base_N[indices_K] + values_K != tuned_N[indices_K]).sum())
    return AdapterPart(
        indices_K=torch.cat([indices_K, padding]).to(torch.int32),
        values_K=torch.cat([values_K.float(), torch.zeros(len(padding))]),
        num_inexact=num_inexact,
    )


def save_config(folder: Path, layers: list[str], sparsity: float, base_name: str | None) -> None:
    """Write the adapter's config."""
    from peft import SupertuningConfig

    config = SupertuningConfig(
        target_modules=layers,
        sparsity=sparsity,
        inference_mode=True,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )
    config.save_pretrained(str(folder))
