"""The optional part of a method that reads training examples while it is attached, and measures on them."""

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
_ROWS = 8  # of a mini-batch; another number than the training's, so that a choice does not depend on how a step is cut


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
        """Put the method on, as `attach` does; a resumed training's model has the weights of its checkpoint.

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
        model: any mode. Which of its parameters require gradients is afterwards as it was.
        parameters: of which some may need no gradient; theirs is zero.
        batches: gives the examples.
    """
    import torch

    of_parameters = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
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
                found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
                for total, gradient in zip(of_parameters, found, strict=True):
                    if gradient is not None:
                        total += gradient
    finally:
        for p, was in zip(parameters, was_trained, strict=True):
            p.requires_grad_(was)
    return [total / max(num_tokens, 1) for total in of_parameters]


def input_magnitudes(model: nn.Module, modules: Sequence[nn.Module], batches: Batches) -> list[Tensor]:
    """Return the mean magnitude of each input feature of linear modules over all tokens without padding, float32.

    Args:
        model: any mode.
        modules: linear; shape [in] is returned for each.
        batches: gives the examples, with an attention mask unless nothing is padded.
    """
    import torch

    sums: dict[nn.Module, Tensor] = {}
    is_token: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().abs().float().reshape(-1, inputs[0].shape[-1])
        sums[module] = sums.get(module, torch.zeros((), device=x.device)) + x[is_token[-1]].sum(0)

    hooks = [module.register_forward_pre_hook(look) for module in modules]
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
