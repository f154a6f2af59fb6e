"""Trains some of a model's own parameters and freezes the others. Importing this file imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel


class TrainedPart:
    """A model in which only some parameters train; constructing it freezes the others.

    Args:
        model: the model; changed in place.
        parameters: the parameters that train, by their names in the model.
        file_name: the name of the safetensors file for their trained values.
    """

    def __init__(self, model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], *, file_name: str):
        self._parameters, self._file_name = parameters, file_name
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in parameters)

    def save(self, folder: Path) -> None:
        """Write the parameters that trained, for `load` or `load_state_dict(..., strict=False)`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: p.detach().cpu().contiguous() for name, p in self._parameters.items()}, folder / self._file_name
        )

    def load(self, folder: Path) -> None:
        """Set the parameters to the values that `save` wrote."""
        import torch
        from safetensors.torch import load_file

        saved = load_file(folder / self._file_name)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(saved[name])

    def restore(self) -> None:
        """Do nothing, since the parameters are the model's own."""
