"""The optional protocol of a method that measures the model on training examples when it is attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gmt.methods.protocol import Attached

Batches = Callable[[int], Iterator[Mapping[str, Any]]]
"""Returns the examples in mini-batches of a number of rows, as the model's forward pass takes them, with labels."""
_ROWS = 8  # rows in a mini-batch; not train.micro_batch_size, so that a choice does not depend on this setting


@runtime_checkable
class ProbesExamples(Protocol):
    """An optional part of Method: it measures the model on training examples while it is attached."""

    @property
    def num_examples(self) -> int:
        """Number of rows of the training data that it reads; with 0, `attach` is called instead."""
        ...

    def attach_with_examples(
        self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int, batches: Batches
    ) -> Attached:
        """Attach the method, as `attach` does; in a resumed training the model has the weights of its checkpoint.

        Args:
            model, optimizer, seed, facts_every: as for `attach`.
            batches: returns the examples in mini-batches of the given size, the same ones at each call and on every
                worker.
        """
        ...


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode inside the block, so that it draws no random numbers."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def gradients(model: nn.Module, parameters: Sequence[Tensor], batches: Batches) -> list[Tensor]:
    """Return the gradients of the mean loss over all labelled tokens of the examples, in float32.

    The parameters' own `grad` stays as it is, and no hook on it is called.

    Args:
        model: a model in any mode; the `requires_grad` of its parameters is restored.
        parameters: the parameters; those that the loss does not depend on get a zero gradient.
        batches: returns the examples.
    """
    import torch

    totals = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    was_trained = [p.requires_grad for p in parameters]
    num_tokens = 0
    for p in parameters:
        p.requires_grad_(True)
    try:
        with evaluating(model), torch.enable_grad():
            for batch in batches(_ROWS):
                num_labels = int((batch["labels"][:, 1:] >= 0).sum())
                loss = model(**batch, use_cache=False).loss * num_labels
                num_tokens += num_labels
                batch_gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
                for total, gradient in zip(totals, batch_gradients, strict=True):
                    if gradient is not None:
                        total += gradient
    finally:
        for p, was in zip(parameters, was_trained, strict=True):
            p.requires_grad_(was)
    return [total / max(num_tokens, 1) for total in totals]


def input_magnitudes(model: nn.Module, modules: Sequence[nn.Module], batches: Batches) -> list[Tensor]:
    """Return the mean magnitude of each input feature of linear modules over all tokens without padding, float32.

    Args:
        model: a model in any mode.
        modules: linear modules; the result for each has shape [in].
        batches: returns the examples, with an attention mask unless nothing is padded.
    """
    import torch

    sums: dict[nn.Module, Tensor] = {}
    is_token: list[Tensor] = []

    def add_magnitudes(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().abs().float().reshape(-1, inputs[0].shape[-1])
        sums[module] = sums.get(module, torch.zeros((), device=x.device)) + x[is_token[-1]].sum(0)

    hooks = [module.register_forward_pre_hook(add_magnitudes) for module in modules]
    num_tokens = 0
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches(_ROWS):
                mask = batch.get("attention_mask")
                is_token.append((torch.ones_like(batch["input_ids"]) if mask is None else mask).bool().flatten())
                num_tokens += int(is_token[-1].sum())
                model(**batch, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [sums[module] / num_tokens for module in modules]
