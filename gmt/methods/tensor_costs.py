"""Counts the operations of a forward and a backward pass by tensors, as PyTorch's dispatcher counts matrix products.

The gradient of an input, and that of a matrix, each cost as much as their product; the two gradients of a product of
activations, as in attention, together cost twice as much as the product. Knows nothing of methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gmt.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TensorCosts:
    """The operations of some mini-batches, for tensors in the order in which the forward pass first uses them.

    Args:
        parameters: the tensors.
        of_weights: the operations of each tensor's gradient.
        of_path: the operations of the backward path from the loss down to each tensor, without its own module's.
        forward: the operations of the forward pass.
        total: the operations of the forward and the backward pass if everything trains.
    """

    parameters: Sequence[nn.Parameter]
    of_weights: Sequence[int]
    of_path: Sequence[int]
    forward: int
    total: int


@dataclass(frozen=True)
class _Use:
    """A call of a module, with its operations except those of the modules that it calls."""

    module: nn.Module
    num_operations: int


def tensor_costs(model: nn.Module, batches: Iterable[Mapping[str, Any]], *, method: str) -> TensorCosts:
    """Return the operations of some mini-batches together; there must be at least one.

    Raises:
        UserError: a module multiplies by several matrices, the model has operations that belong to no tensor, or it
            uses its tensors in another order for another mini-batch.
    """
    batch_costs = [_batch_costs(model, batch, method=method) for batch in batches]
    parameters = batch_costs[0].parameters
    if any([*map(id, costs.parameters)] != [*map(id, parameters)] for costs in batch_costs):
        raise UserError(f"method={method} needs a model that uses its tensors in the same order for all examples")
    return TensorCosts(
        parameters=parameters,
        of_weights=[sum(counts) for counts in zip(*(costs.of_weights for costs in batch_costs), strict=True)],
        of_path=[sum(counts) for counts in zip(*(costs.of_path for costs in batch_costs), strict=True)],
        forward=sum(costs.forward for costs in batch_costs),
        total=sum(costs.total for costs in batch_costs),
    )


def _batch_costs(model: nn.Module, batch: Mapping[str, Any], *, method: str) -> TensorCosts:
    """Return the operations of one mini-batch."""
    _check_modules(model, method)
    uses = _uses(model, batch)
    first: dict[nn.Parameter, int] = {}
    of_weights: dict[nn.Parameter, int] = {}
    of_input: list[int] = []
    for i, use in enumerate(uses):
        parameters_of_module, matrices = _trained_parameters(use.module)
        for p in parameters_of_module:
            first.setdefault(p, i)
            of_weights[p] = of_weights.get(p, 0) + (use.num_operations if p.ndim > 1 else 0)
        of_input.append(use.num_operations * (1 if matrices else 2))
    above = [sum(of_input[i + 1 :]) for i in range(len(uses))]
    parameters = sorted(first, key=lambda p: first[p])
    forward = sum(use.num_operations for use in uses)
    total = forward + sum(of_weights.values()) + sum(of_input)
    if (counted := _num_operations(model, batch)) > total:
        raise UserError(
            f"method={method} can't keep a budget with this model: a step takes {counted:,} operations, of which its "
            f"tensors account for {total:,}"
        )
    return TensorCosts(
        parameters=parameters,
        of_weights=[of_weights[p] for p in parameters],
        of_path=[above[first[p]] for p in parameters],
        forward=forward,
        total=total,
    )


def _check_modules(model: nn.Module, method: str) -> None:
    """Raise UserError if a module multiplies by several matrices, since the counter can't count products of experts."""
    for module in model.modules():
        _, matrices = _trained_parameters(module)
        if len(matrices) > 1 or any(p.ndim > 2 for p in matrices):
            raise UserError(
                f"method={method} needs modules that multiply by one matrix each, and a {type(module).__name__} of "
                "this model has several"
            )


def _trained_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters of a module, without its children, that train, and the matrices among them."""
    trained = [p for p in module.parameters(recurse=False) if p.requires_grad]
    return trained, [p for p in trained if p.ndim > 1]


def _uses(model: nn.Module, batch: Mapping[str, Any]) -> list[_Use]:
    """Run the model, and return its modules' calls in the order in which they end."""
    uses: list[_Use] = []
    open_calls: list[list[int]] = []  # for each call in progress: the count at its start, and that of calls inside it
    # The counter does not count the CPU's fused attention, so the plain one is used.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():

        def begin(module: nn.Module, inputs: Any) -> None:
            open_calls.append([counter.get_total_flops(), 0])

        def end(module: nn.Module, inputs: Any, outputs: Any) -> None:
            began, inner = open_calls.pop()
            taken = counter.get_total_flops() - began
            uses.append(_Use(module, taken - inner))
            if open_calls:
                open_calls[-1][1] += taken

        hooks = [
            hook for m in model.modules() for hook in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))
        ]
        try:
            model(**batch, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    return uses


def _num_operations(model: nn.Module, batch: Mapping[str, Any]) -> int:
    """Return the number of operations of a whole forward and backward pass."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.enable_grad():
        loss = model(**batch, use_cache=False).loss
        before: int = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(loss, trained, allow_unused=True)
    return before + int(counter.get_total_flops())
