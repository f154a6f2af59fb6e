"""Restores the weights and moments of masked entries after an optimizer's step, from copies made before the step.

This works with any optimizer, fused or not, since nothing in the optimizer is changed.
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
    """Writes masked copies of gradients back into the gradients, for gradients that are not contiguous."""

    def __init__(self) -> None:
        self._replaced: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def write(self, r: Ranked) -> None:
        """Write the masked copy of a parameter's gradient into the gradient, in place.

        If entries of the gradient share memory, as in an expanded tensor, they can't be masked separately. Then a dense
        tensor in the parameter's layout replaces the gradient for this step.
        """
        if r.gradient.is_contiguous():
            return  # it is masked already, since `r.gradient_N` shares its memory
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


class SavedWeights:
    """The values of masked weights before a step; the copies themselves mark which entries are masked.

    Args:
        copies: the parameters and the copies of `masked_weights`.
    """

    def __init__(self, copies: Iterable[tuple[nn.Parameter, Tensor]]):
        self._copies = list(copies)

    def restore(self) -> None:
        """Restore the masked weights after the step, in the present storage, which the step may have replaced."""
        restore_weights_((local(p.detach()), copy) for p, copy in self._copies)


def saved_weights(parameters: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]) -> SavedWeights | None:
    """Return the values of masked weights; None if restoring them needs masks, as `SavedState` has them."""
    copies = masked_weights(parameters, row, selections)
    return None if copies is None else SavedWeights((r.parameter, copies[r.name]) for r in parameters)


class SavedState:
    """The values of weights and moments before a step, with masks of the entries that are not restored."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[Ranked],
        kept: dict[str, Tensor],
        *,
        weights: bool,
        moment_keys: dict[nn.Parameter, frozenset[str]],
    ):
        """Copy the weights and moments.

        Args:
            optimizer: the optimizer, before its step.
            parameters: the parameters that are ranked.
            kept: by name, the entries that the step may change, bool of shape [N].
            weights: whether masked weights are restored.
            moment_keys: for each parameter, the keys of the moments whose masked entries are restored; may be empty.
        """
        self._optimizer = optimizer
        self._kept = {r.parameter: kept[r.name] for r in parameters}
        self._names = {r.parameter: r.name for r in parameters}
        self._keys = moment_keys
        self._weights = _copied({p: local(p.detach()) for p in self._kept}) if weights else {}
        if moment_keys:
            begin_state(optimizer)
        self._moments = {
            p: {k: local(m).clone() for k, m in self._moments_of(p)} for p in self._kept if p in moment_keys
        }

    def restore(self) -> None:
        """Restore the weights and moments of masked entries after the step.

        Masked entries of a moment that the optimizer created during this step are set to zero.

        Raises:
            ValueError: the optimizer's state holds other moments than at `attach`.
        """
        restore_unkept_each_([(local(p.detach()), before, self._kept[p]) for p, before in self._weights.items()])
        for p, moments_before in self._moments.items():
            moments = {key: local(moment) for key, moment in self._moments_of(p)}
            restore_unkept_each_(
                [
                    (moment, moments_before[key] if key in moments_before else torch.zeros_like(moment), self._kept[p])
                    for key, moment in moments.items()
                ]
            )

    def _moments_of(self, p: nn.Parameter) -> list[tuple[str, Tensor]]:
        state: dict[str, Any] = self._optimizer.state.get(p, {})
        kind = type(self._optimizer).__name__
        return list(entry_states(state, p.shape, kind, self._names[p], self._keys[p]))
