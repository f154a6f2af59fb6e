"""GreenTrainer (Huang et al., arXiv 2309.13192): chooses the tensors that train under a budget of operations.

A probe measures each tensor's importance: the decrease of the loss, to first order, that its part of an optimizer step
causes. Dynamic programming chooses the tensors with the largest total importance whose weight gradients, and the
backward path down to the deepest of them, fit into the budget. The other tensors get no gradient, and the backward pass
ends at the deepest chosen tensor.

Departures: the probe reads rows drawn by the seed and takes its step at the peak learning rate, since a warm-up begins
at zero; it leaves the optimizer's state unchanged, while the authors' probe advances it by two steps; operations are
counted, not computed by a formula for each type of model; a budget below the least possible cost is refused, where the
authors raise it. Operations are counted over the probe's rows together: a mini-batch of other lengths takes another
share, since the operations of attention grow with the square of the length.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from gmt.methods.probing import Batches
    from gmt.methods.protocol import OptimizerFacts
    from gmt.methods.tensor_costs import TensorCosts

_OPTIMIZERS = ("adamw", "sgd")  # optimizers whose step the probe can take on a copy of their state
_COUNTED_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class GreenTrainer:
    """Trains the tensors that reduce the loss most within a budget of operations.

    Args:
        name: the name of the method in tables.
        budget: the operations of a forward and backward pass over the probe's rows, as a share of the operations if
            everything trains, in (0, 1].
        refresh_epochs: the number of epochs after which tensors are chosen anew, at least 1.
        num_examples: the number of training rows that the probe reads, at least 1.
    """

    name: str
    budget: float
    refresh_epochs: int
    num_examples: int

    def __post_init__(self) -> None:
        rule = "must lie in (0, 1]"
        settings.number("method.budget", self.budget, rule, low=0, open_low=True, high=1, open_high=False)
        settings.integer("method.refresh_epochs", self.refresh_epochs, low=1)
        settings.integer("method.num_examples", self.num_examples, low=1)

    @property
    def target_density(self) -> None:
        """None: the method sets a share of the operations, not of the entries."""
        return None

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return a sentence if the probe can't repeat the optimizer's step."""
        if optimizer.name in _OPTIMIZERS:
            return []
        return [
            f"train.optimizer must be one of {', '.join(_OPTIMIZERS)} for method {self.name}, which probes by a step "
            f"of the optimizer, got {optimizer.name}"
        ]

    def faults_when_sharded(self) -> list[str]:
        """Return a clause that refuses sharding, since the probe needs whole tensors."""
        return [f"method {self.name}, which probes whole tensors"]

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> ChosenTensors:
        """Refuse, since tensors can't be chosen without examples.

        Raises:
            UserError: always.
        """
        raise UserError(f"method={self.name} reads examples: call attach_with_examples")

    def attach_with_examples(
        self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int, batches: Batches
    ) -> ChosenTensors:
        """Count the operations of the model's tensors, and return the method at work.

        Raises:
            UserError: the model uses activation checkpointing, the budget does not suffice for any tensor, or the
                operations can't be counted by tensors.
        """
        from gmt.methods.tensor_choice import cheapest
        from gmt.methods.tensor_costs import tensor_costs

        if getattr(model, "is_activation_checkpointing", False):
            raise UserError(
                f"model.gradient_checkpointing must be false for method {self.name}, which counts no operations that "
                "are done twice, got true"
            )
        costs = tensor_costs(model, batches(_COUNTED_ROWS), method=self.name)
        floor = costs.forward + cheapest(costs.of_weights, costs.of_path)
        if self.operations_of(costs) < floor:
            least = -(-10_000 * floor // costs.total) / 10_000  # rounded up, so that this value is accepted
            raise UserError(
                f"method.budget must be at least {least:.4f} for this model, which the forward pass and the cheapest "
                f"tensor take, got {self.budget}"
            )
        return ChosenTensors(self, model, optimizer, costs, batches)

    def operations_of(self, costs: TensorCosts) -> int:
        """Return how many operations of a forward and backward pass the budget allows."""
        from gmt.masking.rule import num_masked

        return num_masked(self.budget, costs.total)  # floor(budget * total), with the budget as an exact decimal


class ChosenTensors:
    """Chosen tensors at work. The others get no gradient, so the optimizer skips them, and their moments stay."""

    def __init__(
        self, settings: GreenTrainer, model: nn.Module, optimizer: Optimizer, costs: TensorCosts, batches: Batches
    ):
        from gmt.masking.parameters import names_of

        self._settings, self._model, self._optimizer = settings, model, optimizer
        self._costs, self._batches = costs, batches
        names = names_of(model)
        self._named = {names[p]: p for p in costs.parameters}
        self._rest = [p for p in names if p.requires_grad and names[p] not in self._named]  # the model never uses them
        self._epoch = -1  # the epoch in which the tensors were chosen
        self._chosen: list[str] = []
        self._touched: set[str] = set()
        self._num_choices = 0

    def begin_epoch(self, epoch: int) -> None:
        """Choose tensors in epoch 0 and every `refresh_epochs` epochs after it; let only the chosen tensors train."""
        if epoch % self._settings.refresh_epochs == 0 and epoch != self._epoch:
            self._epoch = epoch
            self._chosen = self._choose()
            self._touched |= {*self._chosen}
            self._num_choices += 1
        for name, p in self._named.items():
            p.requires_grad_(name in self._chosen)
        for p in self._rest:
            p.requires_grad_(False)

    def _choose(self) -> list[str]:
        from gmt.methods.tensor_choice import choose

        costs = self._costs
        importances = importance(self._model, self._optimizer, costs.parameters, self._batches)
        budget = self._settings.operations_of(costs) - costs.forward
        chosen = choose(importances, costs.of_weights, costs.of_path, budget)
        return [name for name, is_chosen in zip(self._named, chosen, strict=True) if is_chosen]

    def facts(self) -> dict[str, float]:
        """Return the shares of entries that train and of operations, and how often the tensors have been chosen."""
        costs = self._costs
        is_chosen = [name in self._chosen for name in self._named]
        path = next((path for path, chosen in zip(costs.of_path, is_chosen, strict=True) if chosen), 0)
        of_weights = sum(weight for weight, chosen in zip(costs.of_weights, is_chosen, strict=True) if chosen)
        total = sum(p.numel() for p in [*self._named.values(), *self._rest])
        return {
            "density": self.num_trained() / total,
            "mask_seconds": 0.0,  # a step chooses nothing; tensors are chosen between epochs
            "operations": (costs.forward + path + of_weights) / costs.total,
            "num_choices": float(self._num_choices),
        }

    def num_trained(self) -> int:
        """Return the number of entries of the chosen tensors."""
        return sum(self._named[name].numel() for name in self._chosen)

    def num_touched(self) -> int:
        """Return the number of entries of all tensors that have been chosen so far."""
        return sum(self._named[name].numel() for name in self._touched)

    def state_dict(self) -> dict[str, Any]:
        """Return the chosen tensors, the epoch of the choice, all tensors ever chosen, and the number of choices."""
        return {
            "epoch": self._epoch,
            "chosen": list(self._chosen),
            "touched": sorted(self._touched),
            "num_choices": self._num_choices,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the tensors of a checkpoint."""
        self._epoch, self._chosen, self._touched = state["epoch"], list(state["chosen"]), {*state["touched"]}
        self._num_choices = state["num_choices"]

    def detach(self) -> None:
        """Let every tensor train again."""
        for p in [*self._named.values(), *self._rest]:
            p.requires_grad_(True)


def importance(
    model: nn.Module, optimizer: Optimizer, parameters: Sequence[nn.Parameter], batches: Batches
) -> list[float]:
    """Return each tensor's importance: minus the inner product of its step and its gradient after the step.

    The values are scaled so that the largest magnitude is 1. Weights, gradients and the optimizer are restored bit for
    bit.

    Args:
        model: a model in any mode.
        optimizer: torch's AdamW or SGD over the parameters; the step is taken at the peak of its learning rate.
        parameters: the tensors.
        batches: returns the probe's examples.
    """
    import torch

    from gmt.methods.probing import gradients

    weights = [p.detach().clone() for p in parameters]
    former_gradients = [p.grad for p in parameters]
    try:
        for p, gradient in zip(parameters, gradients(model, parameters, batches), strict=True):
            p.grad = gradient.to(p.dtype)
        _copied(optimizer).step()
        with torch.no_grad():
            steps = [p.float() - weight.float() for p, weight in zip(parameters, weights, strict=True)]
        after = gradients(model, parameters, batches)
    finally:
        with torch.no_grad():
            for p, weight, former in zip(parameters, weights, former_gradients, strict=True):
                p.copy_(weight)
                p.grad = former
    values = [-float((step * gradient).sum()) for step, gradient in zip(steps, after, strict=True)]
    largest = max(map(abs, values))
    return [value / largest for value in values] if largest else values


def _copied(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer over the same parameters, with a copy of the state, without hooks, at the peak rate."""
    import torch

    def value_of(value: object) -> object:
        return value.clone() if isinstance(value, torch.Tensor) else copy.copy(value)

    copied = copy.copy(optimizer)  # this copies groups and state by reference, and no hooks
    copied.param_groups = [{**group, "lr": group.get("initial_lr", group["lr"])} for group in optimizer.param_groups]
    copied.state = defaultdict(dict)
    for p, state in optimizer.state.items():
        copied.state[p] = {key: value_of(value) for key, value in state.items()}
    return copied
