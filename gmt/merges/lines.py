"""LiNeS (Wang et al., arXiv 2410.17146): a delta scaled layer by layer, little in the first and wholly in the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError
from gmt.merges.protocol import ONE_PARENT, Formula, Weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Scales the delta of block l of L by alpha + beta l / (L - 1), and what lies outside of the blocks by alpha.

    Args:
        name: the word for it in tables.
        alpha: the scale of the first block, at least 0.
        beta: what the last block has more; null for 1 - alpha, which keeps the last block as it was trained (the
            paper's choice for one task).
    """

    name: str
    alpha: float
    beta: float | None

    num_parents = ONE_PARENT
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.text("merge.name", self.name)
        settings.number("merge.alpha", self.alpha, "must be at least 0", low=0)
        if self.beta is not None:
            settings.number("merge.beta", self.beta, "must be at least 0 or null", low=0)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return what scales a tensor's delta.

        Raises:
            UserError: the model does not number at least two blocks.
        """
        last = weights.num_blocks - 1
        if last < 1:
            raise UserError(
                f"merge {self.name} needs a model with at least 2 numbered blocks, got {weights.num_blocks}"
            )
        beta = 1 - self.alpha if self.beta is None else self.beta

        def scaled(name: str) -> Tensor:
            block = weights.block(name)
            scale = self.alpha if block is None else self.alpha + beta * block / last
            return weights.base(name).lerp(weights.tuned(0, name), scale)  # exact at 0 and at 1

        return scaled
