"""Checks the settings that choose layers of a model, and finds the layers with given numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from gmt.errors import UserError

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


def check_targets(targets: object) -> None:
    """Raise UserError if method.targets is neither `all-linear` nor a list of names."""
    is_list = isinstance(targets, list) and bool(targets) and all(isinstance(name, str) and name for name in targets)
    if not is_list and targets != "all-linear":
        raise UserError(f"method.targets must be all-linear or a list of texts, got {targets!r}")


def check_layers(layers: Sequence[int] | None) -> None:
    """Raise UserError if method.layers is neither null nor a list of numbers."""
    if layers is None:
        return
    is_list = isinstance(layers, Sequence) and not isinstance(layers, str)
    if not is_list or not layers or not all(type(number) is int for number in layers):
        raise UserError(f"method.layers must be null or a list of at least one layer's number, got {layers!r}")


def in_layers(model: nn.Module, named: Mapping[str, T], layers: Sequence[int]) -> dict[str, T]:
    """Return the parameters or modules in the layers with the given numbers, over all stacks of layers.

    Args:
        model: the model, whose parameters tell how many layers each stack has.
        named: parameters or modules by name.
        layers: numbers from 0; -1 is the last layer.

    Raises:
        UserError: no stack has a layer of such a number, or the layer has none of `named`.
    """
    from gmt.masking.parameters import layer_of

    def place(name: str) -> tuple[str, str]:
        stack, _, number = layer_of(name).rpartition(".")
        return stack, number

    heights: dict[str, int] = {}
    for name, _ in model.named_parameters():
        stack, number = place(name)
        if number.isdecimal():
            heights[stack] = max(heights.get(stack, 0), int(number) + 1)
    height = max(heights.values(), default=0)
    chosen: dict[str, T] = {}
    for layer in layers:
        if not -height <= layer < height:
            numbers = f"numbers from {-height} to {height - 1}, the layers of this model" if height else "null here"
            raise UserError(f"method.layers must be {numbers}, got {layer}")
        places = {(stack, str(layer if layer >= 0 else layer + num)) for stack, num in heights.items()}
        in_layer = {name: member for name, member in named.items() if place(name) in places}
        if not in_layer:
            raise UserError(f"method.layers must be numbers of layers with parts that the method trains, got {layer}")
        chosen |= in_layer
    return chosen
