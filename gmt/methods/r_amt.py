"""Regularized attention mask tuning, R-AMT (Zheng et al., arXiv 2307.15049, Section 3): masks under gradient dropout.

Each entry of the chosen frozen weights has a score, and is set to zero if the score is not above a threshold. The
straight-through estimator uses g * W as the gradient of the scores. The loss is the task's loss plus a small term on
the norms of the scores. Let a be the gradient of this loss, after clipping, and b the gradient of the divergence
KL(base || model). A score's gradient is kept with the probability (1 + sign(a) (a + b) / (|a| + |b| + 1e-8)) / 2: it is
certainly kept if both have the same sign and are not tiny.

The divergence is computed in a second pass over twins of the scores. It is a loss term whose gradients go to the twins,
and are weighted and added up over micro-batches like those of the scores. Departures: conf/method/r_amt.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError
from gmt.methods.divergence import divergence, labelled, logits_of
from gmt.methods.layer_settings import check_layers, check_targets
from gmt.methods.sft import Dense

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.protocol import LossTerm
    from gmt.methods.reshaped import Reshaped
    from gmt.methods.weight_masks import ScoresAboveThreshold

_TINY = 1e-8  # the authors' value


@dataclass(frozen=True, kw_only=True)
class RegularizedMaskTuning:
    """Learns which entries of frozen weights to set to zero, and drops gradients that oppose the base's.

    Args:
        name: the name of the method in tables.
        initial: the initial value of all scores.
        threshold: entries whose score is not above it are set to zero; below `initial`.
        dropout: the share that is taken off a dropped gradient, in [0, 1].
        strength: the weight of the sum of the scores' norms in the loss.
        targets: `all-linear`, all linear layers but the output's, or a list of names or ends of names.
        layers: numbers of the model's layers, from 0 and -1 for the last, whose matrices are masked; null for all.
    """

    name: str
    initial: float
    threshold: float
    dropout: float
    strength: float
    targets: str | Sequence[str]
    layers: Sequence[int] | None

    def __post_init__(self) -> None:
        initial = settings.number("method.initial", self.initial, "must be above 0", low=0, open_low=True)
        rule = f"must lie in [0, method.initial), so below {initial}"
        settings.number("method.threshold", self.threshold, rule, low=0, high=initial)
        settings.number("method.dropout", self.dropout, "must lie in [0, 1]", low=0, high=1, open_high=False)
        settings.number("method.strength", self.strength, "must be at least 0", low=0)
        check_targets(self.targets)
        check_layers(self.layers)

    @property
    def target_density(self) -> None:
        """None: no share is set."""
        return None

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Reshaped:
        """Freeze the model, and put masks over the chosen weights.

        Raises:
            UserError: the model has no such layers, or recomputes activations in the backward pass, as the second pass
                does not allow.
        """
        from gmt.methods.computed_weights import ComputedWeights, chosen_layers
        from gmt.methods.weight_masks import ScoresAboveThreshold

        if model.is_activation_checkpointing:
            raise UserError(f"method {self.name} can't work with model.gradient_checkpointing=true: set it to false")

        def make(layer: nn.Linear) -> ScoresAboveThreshold:
            return ScoresAboveThreshold(layer.weight, initial=self.initial, threshold=self.threshold)

        return ComputedWeights(model, chosen_layers(model, self.targets, self.layers), make, "masks.safetensors")

    def loss_term(self, model: PreTrainedModel, *, base: Callable[[], PreTrainedModel]) -> LossTerm:
        """Return the term on the scores' norms, which also gives the divergence's gradients to twins of the scores."""
        import torch

        from gmt.methods.computed_weights import switched_off

        parts = list(_parts(model).values())
        for part in parts:
            part.twin = part.scores.detach().requires_grad_()

        def term(batch: Mapping[str, Any]) -> Tensor:
            with torch.no_grad(), switched_off(parts):
                base_logits = logits_of(model, batch)
            with _twins(parts):
                logits = logits_of(model, batch)
            norms = torch.stack([torch.linalg.vector_norm(part.scores) for part in parts])
            from_base = divergence(base_logits, logits, labelled(batch))
            # Only its gradients matter: the training does not minimise it, so its value stays out of the logged loss.
            return from_base - from_base.detach() + self.strength * norms.sum()

        return term

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> GradientDropout:
        """Hook the dropout onto the optimizer."""
        return GradientDropout(self.dropout, _parts(model), optimizer, seed=seed)


class GradientDropout(Dense):
    """Drops gradients of scores at each step.

    Args:
        dropout: the share that is taken off a dropped gradient.
        parts: the masks by name.
    """

    def __init__(self, dropout: float, parts: Mapping[str, ScoresAboveThreshold], optimizer: Optimizer, *, seed: int):
        self._dropout, self._parts, self._seed = dropout, parts, seed
        self._num_steps = 0
        self._num_dropped: list[Tensor] = []
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    def facts(self) -> dict[str, float]:
        """Return the shares of gradients that were dropped at the last step, and of entries that are set to zero."""
        total = sum(part.scores.numel() for part in self._parts.values())
        zeros = sum(int((~part.keep()).sum()) for part in self._parts.values())
        dropped = sum(float(num) for num in self._num_dropped)
        return {"dropped_fraction": dropped / total, "zero_fraction": zeros / total}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps, which decides the draws."""
        return {"num_steps": self._num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's number of steps."""
        self._num_steps = state["num_steps"]

    def detach(self) -> None:
        """Remove the hook and the twins."""
        self._hook.remove()
        for part in self._parts.values():
            part.twin = None

    def _before_step(self, *_: Any) -> None:
        self._num_dropped = []
        for name, part in self._parts.items():
            if part.twin is not None and part.scores.grad is not None:
                self._drop(name, part.scores.grad, _mean_gradient(part.twin))
                part.twin.grad = None
        self._num_steps += 1

    def _drop(self, name: str, gradient: Tensor, divergence_gradient: Tensor) -> None:
        from gmt.masking.random_bits import keys, random_bits

        key = keys(self._seed, self._num_steps, name)
        bits = random_bits(gradient.numel(), key, start=0, device=gradient.device)
        is_kept = probability(gradient, divergence_gradient) > bits.view(gradient.shape).float() / 2**31
        self._num_dropped.append((~is_kept).sum())
        gradient.mul_(is_kept * self._dropout + (1 - self._dropout))


def probability(gradient: Tensor, divergence_gradient: Tensor) -> Tensor:
    """Return the probability with which each gradient is kept (the authors' `graddrop_backward_and_update`).

    Args:
        gradient: a, the gradient of the task's loss and the norms' term.
        divergence_gradient: b, the gradient of the divergence from the base, in the same shape.
    """
    ratio = (gradient + divergence_gradient) / (gradient.abs() + divergence_gradient.abs() + _TINY)
    return (1 + gradient.sign() * ratio) / 2


def _parts(model: nn.Module) -> Mapping[str, ScoresAboveThreshold]:
    from gmt.methods.computed_weights import computed_weights
    from gmt.methods.weight_masks import ScoresAboveThreshold

    return computed_weights(model, ScoresAboveThreshold)


def _mean_gradient(twin: Tensor) -> Tensor:
    """Return a twin's gradient, averaged over the workers, as DDP averages the gradients of parameters."""
    import torch
    from torch import distributed

    from gmt.masking.processes import num_processes

    gradient = torch.zeros_like(twin) if twin.grad is None else twin.grad
    if (num := num_processes()) > 1:
        distributed.all_reduce(gradient)
        gradient /= num
    return gradient


@contextmanager
def _twins(parts: Sequence[ScoresAboveThreshold]) -> Iterator[None]:
    """Let gradients go to the twins inside the block."""
    for part in parts:
        part.uses_twin = True
    try:
        yield
    finally:
        for part in parts:
            part.uses_twin = False
