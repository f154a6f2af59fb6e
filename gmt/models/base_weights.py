"""Base weights that the processes of a node share, and copies of them for each run."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_base(source: str, revision: str | None) -> PreTrainedModel:
    """The model by AutoModelForCausalLM, as it is in float32, with its parameters in the dtype of their files.

    transformers maps the safetensors files, whose pages are in memory once for all processes of a node, as long as no
    dtype is asked for that they don't have. So the model is made in float32, and its parameters then lie in the files.

    Returns:
        The model on the CPU, in eval mode; it is to be read only.
    """
    from transformers import AutoModelForCausalLM

    def load(dtype: torch.dtype | str) -> PreTrainedModel:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=dtype, use_safetensors=True
        )
        return loaded

    model = load(torch.float32)
    for parameter, stored in zip(model.parameters(), load("auto").parameters(), strict=True):
        if torch.equal(parameter, stored.to(parameter.dtype)):
            parameter.data = stored.data
    return model


def fresh(base: PreTrainedModel) -> PreTrainedModel:
    """A copy of a base, in float32 and in memory of its own."""
    copies = {id(p): nn.Parameter(p.detach().to(torch.float32, copy=True)) for p in base.parameters()}
    return copy.deepcopy(base, copies)  # what it finds there is taken for the copy
