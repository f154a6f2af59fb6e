"""Base weights that the processes of a node share, and copies of them for each run."""

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
    """The model by AutoModelForCausalLM, as it is in `dtype`, with its parameters in the dtype of their files.

    transformers maps the safetensors files, whose pages are in memory once for all processes of a node, as long as no
    dtype is asked for that they don't have. So the model is made in `dtype`, and its parameters then lie in the files.

    Args:
        folder: with config and safetensors files.
        dtype: of the parameters and of what is computed from the config.
        **how: more for `from_pretrained`.

    Returns:
        The model on the CPU, in eval mode; it is to be read only.

    Raises:
        ValueError: the files lack a weight, or have some of more layers.
    """
    model = _load(folder, dtype, use_safetensors=True, **how)
    for parameter, stored in zip(
        model.parameters(), _load(folder, "auto", use_safetensors=True, **how).parameters(), strict=True
    ):
        if torch.equal(parameter, stored.to(parameter.dtype)):
            parameter.data = stored.data
    return model


def load_gguf(file: Path, dtype: torch.dtype, **how: Any) -> PreTrainedModel:
    """The model of a GGUF file, each quantised weight as the number that it stands for.

    Args:
        file: the .gguf file.
        dtype: of the parameters.
        **how: more for `from_pretrained`.

    Returns:
        The model on the CPU, in eval mode, as one that was never quantised: it can be trained and saved.
    """
    model = _load(file.parent, dtype, gguf_file=file.name, **how)
    del model.config.quantization_config, model.hf_quantizer
    model.is_quantized = False  # type: ignore[assignment]  # torch takes attributes for tensors
    return model


def _load(folder: Path, dtype: torch.dtype | str, **how: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with _forgets_code():
        both: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **how)
    loaded: PreTrainedModel = both[0]
    _ask_for_logits_only(loaded)
    if missing := sorted(both[1]["missing_keys"]):  # transformers would draw them at random
        raise ValueError(f"its files lack {len(missing)} of its weights, {missing[0]} among them")
    if more := _of_more_layers(loaded, both[1]["unexpected_keys"]):  # and leave these out
        raise ValueError(
            f"its files have {len(more)} weights of layers that its config does not have, such as {more[0]}"
        )
    return loaded


@contextmanager
def _forgets_code() -> Iterator[None]:
    """Take back that transformers registers a model's own code for its config class.

    Otherwise the next model whose config has the same code, of an edited folder or one of the same name, would get
    the class of the first.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as mapping

    before = dict(mapping._extra_content)
    try:
        yield
    finally:
        mapping._extra_content = before


def _ask_for_logits_only(model: PreTrainedModel) -> None:
    """Switch off outputs besides logits that a folder's config asks for; no training or evaluation reads them.

    A mixture of experts that gives out its router logits adds their loss to its own, and can't generate in a batch.
    """
    for config in (model.config, model.config.get_text_config()):
        for name, value in _OUTPUTS.items():
            if getattr(config, name, value) != value:
                setattr(config, name, value)


def _of_more_layers(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Of the weights that found no place, those that are called like the model's own but for a number."""
    own = {re.sub(r"\d+", "N", name) for name, _ in model.named_parameters()}
    return sorted(name for name in unexpected if re.sub(r"\d+", "N", name) in own)


def fresh(base: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a base, in `dtype` and in memory of its own."""
    copies = {id(p): nn.Parameter(p.detach().to(dtype, copy=True)) for p in base.parameters()}
    return copy.deepcopy(base, copies)  # what it finds there is taken for the copy
