"""Makes the key under which the results of tests of a model's forward pass are cached. Imports no library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def forward_key(model: PreTrainedModel) -> tuple[Any, ...]:
    """Return a key that is equal for models whose forward passes run the same code on the same type of device."""
    return (
        type(model),
        model.config.to_json_string(),
        tuple(name for name, _ in model.named_parameters()),  # a method's own parts change the forward pass
        model.device.type,
        model.dtype,
        model.config._attn_implementation,
    )
