"""Masks of gradients and updates: exact selection, an engine on optimizer hooks, and sparse deltas of trained weights.

Imports no library but torch, and Triton on CUDA.

Examples:
    >>> from gmt.masking import MaskSpec, attach
    >>> mask = attach(model, optimizer, MaskSpec(mask_ratio=0.8))
"""

from typing import TYPE_CHECKING, Any

from gmt.masking.signals import MatrixSignal, Signal
from gmt.masking.spec import MaskSpec

if TYPE_CHECKING:
    from gmt.masking.attaching import attach
    from gmt.masking.deltas import Composition, SparseDelta, TensorDelta, apply_delta, compose_deltas, sparse_delta
    from gmt.masking.engine import Mask, NonFiniteGradientError
    from gmt.masking.facts import LayerFacts, MaskFacts, Measured

_DELTAS = ("Composition", "SparseDelta", "TensorDelta", "apply_delta", "compose_deltas", "sparse_delta")
__all__ = [
    "Composition",
    "LayerFacts",
    "Mask",
    "MaskFacts",
    "MaskSpec",
    "MatrixSignal",
    "Measured",
    "NonFiniteGradientError",
    "Signal",
    "SparseDelta",
    "TensorDelta",
    "apply_delta",
    "attach",
    "compose_deltas",
    "sparse_delta",
]


def __getattr__(name: str) -> Any:
    """Import the engine when one of its names is first used, so that settings can be checked without torch."""
    from importlib import import_module

    if name in ("LayerFacts", "MaskFacts", "Measured"):
        return getattr(import_module("gmt.masking.facts"), name)
    if name == "attach":
        return import_module("gmt.masking.attaching").attach
    if name in _DELTAS:
        return getattr(import_module("gmt.masking.deltas"), name)
    if name in __all__:
        return getattr(import_module("gmt.masking.engine"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
