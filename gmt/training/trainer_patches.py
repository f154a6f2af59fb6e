"""Undoes the changes that a trainer makes to a model, before the model is evaluated or saved.

transformers 5.23, TRL 1.16 and accelerate 1.15 wrap the forward pass for bf16 autocast and for the loss, and add tags.
In the config and the generation config they change use_cache, the tokenizer's special tokens and the settings of the
router's auxiliary loss.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

_ATTRIBUTES = ("forward", "_original_forward", "model_tags", "warnings_issued")
_Snapshot = tuple[dict[str, Any], list[tuple[Any, dict[str, Any]]]]


class TrainerPatches:
    """Stores the attributes and configs of a model, so that later changes by a trainer can be undone.

    Args:
        model: the model as it was loaded.
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._original = _snapshot(model)

    def remove(self) -> None:
        """Restore the model's stored attributes and configs; the weights stay."""
        _restore(self._model, self._original)

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Undo the trainer's changes inside the block, and make them again after it."""
        patched = _snapshot(self._model)
        self.remove()
        try:
            yield
        finally:
            _restore(self._model, patched)


def _snapshot(model: PreTrainedModel) -> _Snapshot:
    attributes = vars(model)
    configs = [*_configs(model.config), *([model.generation_config] if model.generation_config is not None else [])]
    return {key: attributes[key] for key in _ATTRIBUTES if key in attributes}, [
        (config, _values(config)) for config in configs
    ]


def _restore(model: PreTrainedModel, snapshot: _Snapshot) -> None:
    attributes, configs = snapshot
    for key in _ATTRIBUTES:
        vars(model).pop(key, None)
    vars(model).update(attributes)
    for config, values in configs:
        state: dict[str, Any] = config.__dict__
        state.clear()
        state.update(values)


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield a config and the configs inside it, to which the model's parts have references."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _configs(value)


def _values(config: Any) -> dict[str, Any]:
    return {k: v if isinstance(v, PreTrainedConfig) else copy.deepcopy(v) for k, v in vars(config).items()}
