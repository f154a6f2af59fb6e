"""LiNeS (Wang et al., arXiv 2410.17146): scales the delta by a factor that grows from the first layer to the last."""

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
    """Scales the delta of block l of L by alpha + beta l / (L - 1), and tensors outside the blocks by alpha.

    For several tasks, the paper scales the merged model: name a merged run as the parent.

    Args:
        name: the merge's name in tables.
        alpha: the scale of the first block, at least 0.
        beta: the scale of the last block minus alpha; null for 1 - alpha, which leaves the last block as tuned (the
            paper's choice for one task).
    """

    name: str
    alpha: float
    beta: float | None

    num_parents = ONE_PARENT
    takes_other_base = False

    def __post_init__(self) -> None:
        settings.number("merge.alpha", self.alpha, "must be at least 0", low=0)
        if self.beta is not None:
            settings.number("merge.beta", self.beta, "must be at least 0 or null", low=0)

    def formula(self, weights: Weights, *, seed: int) -> Formula:
        """Return the function that scales a tensor's delta.

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
