"""Loads base weights, which the processes of a node share in memory, and copies them for each run."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OUTPUTS = {
    "return_dict": True,
    "output_router_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
}


def load_base(folder: Path, dtype: torch.dtype, **how: Any) -> PreTrainedModel:
    """Load a model by AutoModelForCausalLM, made in `dtype`, with parameters in the dtype of their files.

    transformers maps safetensors files into memory, so that the processes of a node share their pages, but only if it
    need not convert the dtype. So the model is made in `dtype`, and its parameters are then replaced by the mapped ones
    wherever these have the same values.

    Args:
        folder: a folder with config and safetensors files.
        dtype: the dtype of the model's buffers, and of parameters whose values in the files differ from theirs.
        **how: further arguments of `from_pretrained`.

    Returns:
        The model on the CPU, in eval mode; it must not be changed, since its memory is shared.

    Raises:
        ValueError: the files lack a weight, or have weights of more layers than the config.
    """
    model = _load(folder, dtype, use_safetensors=True, **how)
    for parameter, stored in zip(
        model.parameters(), _load(folder, "auto", use_safetensors=True, **how).parameters(), strict=True
    ):
        if torch.equal(parameter, stored.to(parameter.dtype)):
            parameter.data = stored.data
    return model


def load_gguf(file: Path, dtype: torch.dtype, **how: Any) -> PreTrainedModel:
    """Load the model of a GGUF file, with its quantised weights converted to numbers.

    Args:
        file: the .gguf file.
        dtype: the dtype of the parameters.
        **how: further arguments of `from_pretrained`.

    Returns:
        The model on the CPU, in eval mode, like one that was never quantised: it can be trained and saved.
    """
    model = _load(file.parent, dtype, gguf_file=file.name, **how)
    del model.config.quantization_config, model.hf_quantizer
    model.is_quantized = False  # type: ignore[assignment]  # torch takes attributes for tensors
    return model


def _load(folder: Path, dtype: torch.dtype | str, **how: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with _without_registering_code():
        result: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **how)
    loaded: PreTrainedModel = result[0]
    loading_info = result[1]
    _return_only_logits(loaded)
    if missing := sorted(loading_info["missing_keys"]):  # transformers would draw them at random
        raise ValueError(f"its files lack {len(missing)} of its weights, {missing[0]} among them")
    if more := _weights_of_extra_layers(loaded, loading_info["unexpected_keys"]):  # transformers would leave these out
        raise ValueError(
            f"its files have {len(more)} weights of layers that its config does not have, such as {more[0]}"
        )
    return loaded


@contextmanager
def _without_registering_code() -> Iterator[None]:
    """At the end of the block, undo the registrations that transformers makes for models that bring their own code.

    transformers registers such a model's class for its config class. A later model with the same config class, e.g. one
    from an edited folder or one of the same name, would get the class of the first model.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as mapping

    before = dict(mapping._extra_content)
    try:
        yield
    finally:
        mapping._extra_content = before


def _return_only_logits(model: PreTrainedModel) -> None:
    """Switch off all outputs but the logits in a model's config; no training or evaluation reads the others.

    A mixture of experts that returns router logits adds a router loss to its loss, and can't generate in a batch.
    """
    for config in (model.config, model.config.get_text_config()):
        for name, value in _OUTPUTS.items():
            if getattr(config, name, value) != value:
                setattr(config, name, value)


def _weights_of_extra_layers(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Return the unexpected weights whose names differ from a parameter's name only in numbers."""
    patterns = {re.sub(r"\d+", "N", name) for name, _ in model.named_parameters()}
    return sorted(name for name in unexpected if re.sub(r"\d+", "N", name) in patterns)


def copy_base(base: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return a copy of a base in `dtype`; it shares no memory with the base."""
    copies = {id(p): nn.Parameter(p.detach().to(dtype, copy=True)) for p in base.parameters()}
    return copy.deepcopy(base, copies)  # the second argument holds the copies that exist already, by id
