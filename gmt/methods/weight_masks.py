"""Masks over frozen weights, learnt as real-valued scores by the straight-through estimator. Imports torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.packing import pack, unpack
from gmt.masking.rule import num_masked
from gmt.methods.computed_weights import ComputedWeight
from gmt.methods.lt_sft import largest


class WeightMask(ComputedWeight):
    """A mask over the weight of one layer.

    Args:
        scores: the trained scores, float32 in the shape of the weight.
        by_magnitude: whether the mask depends on a score's magnitude; its gradient is then multiplied by its sign.
    """

    def __init__(self, scores: Tensor, *, by_magnitude: bool):
        super().__init__()
        self.scores = nn.Parameter(scores)
        self._by_magnitude = by_magnitude

    @abstractmethod
    def keep(self) -> Tensor:
        """Return the entries that are not set to zero, bool in the shape of the weight."""

    def in_use(self) -> Tensor:
        """Return the scores that get the gradient."""
        return self.scores

    def compute(self, weight: Tensor) -> Tensor:
        """Return the weight with masked entries set to zero."""
        masked: Tensor = _Masked.apply(weight, self.in_use(), self.keep(), self._by_magnitude)  # type: ignore[no-untyped-call]
        return masked

    def learnt(self) -> dict[str, Tensor]:
        """Return the mask as packed bits."""
        return {"keep": pack(self.keep().flatten())}

    def set_learnt(self, learnt: Mapping[str, Tensor]) -> None:
        """Set the scores to a saved mask: infinite where it keeps an entry, and zero elsewhere."""
        keep_N = unpack(learnt["keep"], self.scores.numel())
        self.scores.zero_().flatten()[keep_N] = torch.inf


class LargestScores(WeightMask):
    """Keeps an exact share of the entries: those with the largest |score|.

    Args:
        weight: the layer's weight; torch's generator draws the scores.
        sparsity: the share of the entries that are set to zero.
        spread: the standard deviation of the scores at the start.
    """

    def __init__(self, weight: Tensor, *, sparsity: float, spread: float):
        super().__init__(torch.randn(weight.shape, device=weight.device) * spread, by_magnitude=True)
        self._sparsity = sparsity

    def keep(self) -> Tensor:
        """Return the entries with the largest |score|; of equal ones the first."""
        if not self._sparsity or self.scores.is_meta:
            return torch.ones_like(self.scores, dtype=torch.bool)
        scores_N = self.scores.detach().flatten()
        (keep_N,) = largest([scores_N], len(scores_N) - num_masked(self._sparsity, len(scores_N)))
        return keep_N.view(self.scores.shape)


class ScoresAboveThreshold(WeightMask):
    """Keeps the entries whose score is above a threshold.

    Args:
        weight: the layer's weight.
        initial: the initial value of the scores.
        threshold: entries whose score is not above it are set to zero.
    """

    def __init__(self, weight: Tensor, *, initial: float, threshold: float):
        super().__init__(torch.full(weight.shape, initial, device=weight.device), by_magnitude=False)
        self._threshold = threshold
        self.twin: Tensor | None = None
        """A second copy of the scores, with its own gradient."""
        self.uses_twin = False

    def keep(self) -> Tensor:
        """Return the entries whose score is above the threshold."""
        return self.scores.detach() > self._threshold

    def in_use(self) -> Tensor:
        """Return the scores, or their twin."""
        if not self.uses_twin:
            return self.scores
        assert self.twin is not None
        return self.twin


class _Masked(torch.autograd.Function):
    """Computes weight * keep; the scores' gradient is g * weight, times their sign if they count by magnitude."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, keep: Tensor, by_magnitude: bool) -> Tensor:
        ctx.save_for_backward(weight, scores)
        ctx.by_magnitude = by_magnitude
        return weight * keep

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, Tensor, None, None]:
        weight, scores = ctx.saved_tensors
        gradient = gradients[0].float() * weight.float()
        return None, gradient * scores.sign() if ctx.by_magnitude else gradient, None, None
