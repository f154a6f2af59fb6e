"""Checks of the settings that choose linear layers of a model."""

from __future__ import annotations

from gmt import settings
from gmt.errors import UserError


def check_targets(targets: object) -> None:
    """Raise UserError if method.targets is neither `all-linear` nor a list of names."""
    is_list = isinstance(targets, list) and bool(targets) and all(isinstance(each, str) and each for each in targets)
    if not is_list and targets != "all-linear":
        raise UserError(f"method.targets must be all-linear or a list of texts, got {targets!r}")


def check_layers(layers: object) -> None:
    """Raise UserError if method.layers is neither null nor a list of numbers."""
    if layers is None:
        return
    if not isinstance(layers, list) or not layers:
        raise UserError(f"method.layers must be null or a list of numbers of blocks, got {layers!r}")
    for number in layers:
        settings.integer("method.layers", number, low=0)
