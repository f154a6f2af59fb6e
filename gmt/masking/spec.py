"""What a mask is: its settings, checked. Knows nothing of models, optimizers or configs."""

import math
from dataclasses import dataclass

SIGNALS = ("gradient", "random")
SCOPES = ("tensor", "global")


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """The settings of a gradient mask (Li et al., arXiv 2406.15330, Section 3).

    Args:
        mask_ratio: fraction of the entries that is masked, in [0, 1). 0 is the plain optimizer, bit for bit.
        signal: what entries are ranked by: `gradient` (magnitude of the accumulated gradient; the paper's
            GMT) or `random` (a fresh uniform draw at every step; the paper's baseline RMT).
        scope: over what the ratio holds: each `tensor` by itself, or all of them together (`global`). The
            paper does not say which of the two it uses.

    Raises:
        ValueError: a setting breaks its rule.
    """

    mask_ratio: float
    signal: str = "gradient"
    scope: str = "tensor"

    def __post_init__(self) -> None:
        ratio = self.mask_ratio
        real = isinstance(ratio, int | float) and not isinstance(ratio, bool) and math.isfinite(ratio)
        if not real or not 0 <= ratio < 1:
            raise ValueError(f"mask_ratio must lie in [0, 1), got {ratio!r}")
        if self.signal not in SIGNALS:
            raise ValueError(f"signal must be one of {', '.join(SIGNALS)}, got {self.signal!r}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {self.scope!r}")
