"""Restores the weights and moments of masked entries after an optimizer's step.

The optimizer is not changed, whatever it is and however it is fused: copies from before its step are written back.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.entries import masked_weights, restore_unkept_each_, restore_weights_
from gmt.masking.parameters import Ranked
from gmt.masking.rule import Selection
from gmt.masking.sharding import local
from gmt.masking.signals import Row
from gmt.masking.trial import begin_state, entry_states


class MaskedGradients:
    """Writes masked copies of gradients that are not contiguous back into the gradients' own layout."""

    def __init__(self) -> None:
        self._replaced: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def write(self, r: Ranked) -> None:
        """Write the masked entries of a parameter into its gradient, in place.

        Where entries of a gradient share memory, as in an expanded one, they can't be masked apart: a dense tensor in
        the parameter's layout replaces the gradient for this step.
        """
        if r.gradient.is_contiguous():
            return  # masked already: `r.gradient_N` shares its memory
        gradient = r.parameter.grad
        assert gradient is not None
        masked = r.gradient_N.view(r.gradient.shape)
        if not entries_share_memory(r.gradient):
            r.gradient.copy_(masked)
            return
        dense = torch.empty_like(r.parameter.detach(), dtype=gradient.dtype)
        local(dense).copy_(masked)
        self._replaced.append((r.parameter, gradient, dense))
        r.parameter.grad = dense

    def put_back(self) -> None:
        """Put replaced gradients back, after the step or after its failure."""
        for p, gradient, dense in self._replaced:
            if p.grad is dense:
                p.grad = gradient
        self._replaced = []


def entries_share_memory(tensor: Tensor) -> bool:
    """Return False only if every entry has an address of its own, whatever the order of the strides."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _copied(tensors: dict[nn.Parameter, Tensor]) -> dict[nn.Parameter, Tensor]:
    """Return copies, made by few launches on a GPU."""
    copies = {p: torch.empty_like(tensor) for p, tensor in tensors.items()}
    if copies:
        torch._foreach_copy_(list(copies.values()), list(tensors.values()))
    return copies


class HeldWeights:
    """The weights that masked entries keep over one step, stored without a mask.

    Args:
        held: the parameters and what `masked_weights` returned for them.
    """

    def __init__(self, held: Iterable[tuple[nn.Parameter, Tensor]]):
        self._held = list(held)

    def put_back(self) -> None:
        """Restore the masked weights after the step, in the present storage, which the step may have replaced."""
        restore_weights_((local(p.detach()), before) for p, before in self._held)


def held_weights(every: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]) -> HeldWeights | None:
    """Return the masked weights' values; None if restoring them needs masks, which `Held` takes."""
    held = masked_weights(every, row, selections)
    return None if held is None else HeldWeights((r.parameter, held[r.name]) for r in every)


class Held:
    """The weights and moments that masked entries keep over one step."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: Sequence[Ranked],
        kept: dict[str, Tensor],
        *,
        weights: bool,
        moment_keys: dict[nn.Parameter, frozenset[str]],
    ):
        """Copy the weights and moments of masked entries.

        Args:
            optimizer: about to step.
            every: the parameters that are ranked.
            kept: by name, the entries that stay free to move, bool of shape [N].
            weights: whether masked weights keep their values.
            moment_keys: for each parameter, the keys of the moments whose masked entries keep their values; may be
                empty.
        """
        self._optimizer = optimizer
        self._kept = {r.parameter: kept[r.name] for r in every}
        self._names = {r.parameter: r.name for r in every}
        self._keys = moment_keys
        self._weights = _copied({p: local(p.detach()) for p in self._kept}) if weights else {}
        if moment_keys:
            begin_state(optimizer)
        self._moments = {
            p: {k: local(m).clone() for k, m in self._moments_of(p)} for p in self._kept if p in moment_keys
        }

    def put_back(self) -> None:
        """Restore the weights and moments of masked entries after the step.

        A moment that the optimizer creates during this step is set to zero where masked.

        Raises:
            ValueError: the optimizer's state holds other moments than at `attach`.
        """
        restore_unkept_each_([(local(p.detach()), old, self._kept[p]) for p, old in self._weights.items()])
        for p, olds in self._moments.items():
            moments = {key: local(moment) for key, moment in self._moments_of(p)}
            restore_unkept_each_(
                [
                    (new, olds[key] if key in olds else torch.zeros_like(new), self._kept[p])
                    for key, new in moments.items()
                ]
            )

    def _moments_of(self, p: nn.Parameter) -> list[tuple[str, Tensor]]:
        state: dict[str, Any] = self._optimizer.state.get(p, {})
        kind = type(self._optimizer).__name__
        return list(entry_states(state, p.shape, kind, self._names[p], self._keys[p]))
