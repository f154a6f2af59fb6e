"""A sparse change of a weight, computed by a kernel from two small factors (SNELL). Imports torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gmt.masking.rule import num_masked
from gmt.methods.computed_weights import ComputedWeight


class KernelChange(ComputedWeight):
    """Adds the largest entries of a kernel to a weight.

    Args:
        weight: the frozen weight, shape [outputs, inputs]. torch's generator draws the factors; their halves are equal.
        rank: the length of the vector for each output and each input; even.
        scale: the kernel's factor.
        sparsity: the share of the change's entries that are set to zero.
    """

    def __init__(self, weight: Tensor, *, rank: int, scale: float, sparsity: float):
        super().__init__()
        self._scale, self._sparsity = scale, sparsity
        factors = [torch.empty(num, rank // 2, device=weight.device) for num in weight.shape]
        for half in factors:
            nn.init.kaiming_uniform_(half, a=math.sqrt(5))
        self.of_outputs, self.of_inputs = (nn.Parameter(half.repeat(2, 1, 1)) for half in factors)

    def change(self) -> Tensor:
        """Return the change that is added to the weight, float32."""
        change = kernel(self.of_outputs, self.of_inputs, self._scale)
        if change.is_meta:
            return change
        return change * largest_or_tied(change.detach(), self._sparsity)

    def compute(self, weight: Tensor) -> Tensor:
        """Return the weight with the change."""
        return (weight.float() + self.change()).to(weight.dtype)

    def learnt(self) -> dict[str, Tensor]:
        """Return the factors."""
        return {"of_outputs": self.of_outputs, "of_inputs": self.of_inputs}


def kernel(of_outputs: Tensor, of_inputs: Tensor, scale: float) -> Tensor:
    """Return scale * (|a_i - b_j| - |a'_i - b'_j|) for all outputs i and inputs j.

    Args:
        of_outputs: a and a', of shape [2, outputs, rank / 2].
        of_inputs: b and b', of shape [2, inputs, rank / 2].
    """
    distances: Tensor = torch.cdist(of_outputs, of_inputs)
    return (distances[0] - distances[1]) * scale


def largest_or_tied(x: Tensor, sparsity: float) -> Tensor:
    """Return a bool mask of the entries that are not among the smallest magnitudes; ties at the threshold are kept.

    Args:
        x: a tensor of any shape.
        sparsity: the share of the entries that are left out; fewer are left out if some tie at the threshold.
    """
    magnitude = x.abs()
    num_smallest = num_masked(sparsity, x.numel())
    keep: Tensor = magnitude >= magnitude.flatten().kthvalue(num_smallest + 1).values
    return keep
