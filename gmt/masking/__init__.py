"""The mask itself: exact selection and the engine on optimizer hooks. Imports torch and nothing else, and
Triton where there is CUDA.

from gmt.masking import MaskSpec, attach
mask = attach(model, optimizer, MaskSpec(mask_ratio=0.8))
"""

from typing import TYPE_CHECKING, Any

from gmt.masking.signals import MatrixSignal, Signal
from gmt.masking.spec import MaskSpec

if TYPE_CHECKING:
    from gmt.masking.attaching import attach
    from gmt.masking.engine import Mask, NonFiniteGradientError
    from gmt.masking.facts import LayerFacts, MaskFacts, Measured

__all__ = [
    "LayerFacts",
    "Mask",
    "MaskFacts",
    "MaskSpec",
    "MatrixSignal",
    "Measured",
    "NonFiniteGradientError",
    "Signal",
    "attach",
]


def __getattr__(name: str) -> Any:
    """Imports torch with the first use of the engine, so that settings can be checked without it."""
    from importlib import import_module

    if name in ("LayerFacts", "MaskFacts", "Measured"):
        return getattr(import_module("gmt.masking.facts"), name)
    if name == "attach":
        return import_module("gmt.masking.attaching").attach
    if name in __all__:
        return getattr(import_module("gmt.masking.engine"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
