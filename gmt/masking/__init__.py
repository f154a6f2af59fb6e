"""The mask itself: exact selection and the engine on optimizer hooks. Imports torch and nothing else.

from gmt.masking import MaskSpec, attach
mask = attach(model, optimizer, MaskSpec(mask_ratio=0.8))
"""

from gmt.masking.engine import Mask, MaskFacts, NonFiniteGradientError, attach
from gmt.masking.spec import MaskSpec

__all__ = ["Mask", "MaskFacts", "MaskSpec", "NonFiniteGradientError", "attach"]
