"""Weights of linear layers that are computed from the frozen weight and trained tensors in every forward pass.

They are torch's parametrizations: the layer stays an nn.Linear, and its code reads the computed weight. Imports torch;
methods import this file in functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gmt.errors import UserError
from gmt.methods.layer_settings import in_layers


class ComputedWeight(nn.Module, ABC):
    """Computes the weight of one layer. A subclass has the parameters, and returns the tensors to save."""

    is_on = True

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that the layer computes with."""
        return self.compute(weight) if self.is_on else weight

    @abstractmethod
    def compute(self, weight: Tensor) -> Tensor:
        """Return the weight in the dtype of the frozen one."""

    @abstractmethod
    def learnt(self) -> dict[str, Tensor]:
        """Return the tensors to save, by name."""

    def set_learnt(self, learnt: Mapping[str, Tensor]) -> None:
        """Set the parameters to saved values; a subclass overrides this if `learnt` returns computed tensors."""
        for key, tensor in self.learnt().items():
            tensor.copy_(learnt[key])


class ComputedWeights:
    """A model with computed weights in some of its linear layers; all other parameters are frozen.

    Args:
        model: the model; changed in place.
        layers: the layers by name.
        make: makes the computed weight of a layer.
        file: the name of the file to save.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Linear], make: Callable[[nn.Linear], ComputedWeight], file: str
    ):
        for p in model.parameters():
            p.requires_grad_(False)
        self._layers, self._file = layers, file
        self.parts = {name: make(layer) for name, layer in layers.items()}
        for name, part in self.parts.items():
            parametrize.register_parametrization(layers[name], "weight", part)

    def save(self, folder: Path) -> None:
        """Write the learnt tensors, by the names of the layers."""
        folder.mkdir(parents=True, exist_ok=True)
        learnt = {f"{name}.{key}": x for name, part in self.parts.items() for key, x in part.learnt().items()}
        save_file({key: x.detach().cpu().contiguous() for key, x in learnt.items()}, folder / self._file)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Set the parts to the values that `save` wrote."""
        saved = load_file(folder / self._file)
        for name, part in self.parts.items():
            part.set_learnt({key: saved[f"{name}.{key}"] for key in part.learnt()})

    def restore(self) -> None:
        """Replace the frozen weights by the computed ones."""
        for layer in self._layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Compute with the frozen weights inside the block."""
        with switched_off(self.parts.values()):
            yield


@contextmanager
def switched_off(parts: Any) -> Iterator[None]:
    """Make computed weights return the frozen weight inside the block."""
    for part in parts:
        part.is_on = False
    try:
        yield
    finally:
        for part in parts:
            part.is_on = True


def computed_weights(model: nn.Module, weight_class: type[ComputedWeight]) -> dict[str, Any]:
    """Return the computed weights of a class in a model, by the names of their layers."""
    ending = ".parametrizations.weight.0"
    modules = model.named_modules()
    return {name.removesuffix(ending): module for name, module in modules if isinstance(module, weight_class)}


def chosen_layers(
    model: Any, targets: str | Sequence[str], numbers: Sequence[int] | None = None
) -> dict[str, nn.Linear]:
    """Return linear layers of a model, by name, without the output layer.

    Args:
        model: the base.
        targets: `all-linear`, or names and ends of names.
        numbers: as in method.layers.

    Raises:
        UserError: a name or a number fits no layer, or another layer shares the weight.
    """
    head = model.get_output_embeddings()
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    ends = [""] if targets == "all-linear" else list(targets)

    def fits(name: str, end: str) -> bool:
        return not end or name == end or name.endswith(f".{end}")

    for end in ends:
        if not any(fits(name, end) for name in linear):
            kinds = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(f"method.targets must name linear layers of the model, {', '.join(kinds)}, got {end!r}")
    chosen = {name: m for name, m in linear.items() if any(fits(name, end) for end in ends)}
    if numbers is not None:
        chosen = in_layers(model, chosen, numbers)
    _refuse_shared(model, chosen)
    return chosen


def _refuse_shared(model: nn.Module, chosen: Mapping[str, nn.Linear]) -> None:
    owners: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        layer = name.rpartition(".")[0]
        if (other := owners.setdefault(id(p), layer)) != layer and (layer in chosen or other in chosen):
            raise UserError(f"method.targets must not name {layer}, whose weight {other} has too")
