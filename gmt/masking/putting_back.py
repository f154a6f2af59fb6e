"""Taking back what an optimizer did to masked entries: their weights, their moments.

The optimizer is left alone, whatever it is and however it is fused; a copy from before its step undoes the rest.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.entries import restore_unkept_
from gmt.masking.sharding import local


class Held:
    """What masked entries keep over one step."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, kept: dict[nn.Parameter, Tensor], *, weights: bool, moments: bool
    ):
        """Copies it.

        Args:
            optimizer: about to step.
            kept: for each parameter the entries that stay free to move, bool of shape [N].
            weights: whether masked weights keep their values.
            moments: whether the moments of masked entries keep theirs.
        """
        self._optimizer = optimizer
        self._kept = kept
        self._weights = {p: local(p.detach()).clone() for p in kept} if weights else {}
        self._moments = {p: {k: local(m).clone() for k, m in self._moments_of(p)} for p in kept} if moments else {}

    def put_back(self) -> None:
        """Puts it back, after the step. A moment that did not exist before it is zero where masked.

        Raises:
            ValueError: the optimizer keeps no moments that could be masked.
        """
        for p, old in self._weights.items():
            restore_unkept_(local(p.detach()), old, self._kept[p])
        num_moments = 0
        for p, olds in self._moments.items():
            for key, moment in self._moments_of(p):
                new = local(moment)
                restore_unkept_(new, olds[key] if key in olds else torch.zeros_like(new), self._kept[p])
                num_moments += 1
        if self._moments and not num_moments:
            kind = type(self._optimizer).__name__
            raise ValueError(f"moments=masked needs an optimizer that keeps moments entry by entry, {kind} keeps none")

    def _moments_of(self, p: nn.Parameter) -> list[tuple[str, Tensor]]:
        """The state that the optimizer keeps of each entry; its count of steps may have the shape of a scalar."""
        state: dict[str, Any] = self._optimizer.state.get(p, {})
        return [
            (key, value)
            for key, value in state.items()
            if isinstance(value, Tensor) and value.shape == p.shape and value.is_floating_point() and key != "step"
        ]
