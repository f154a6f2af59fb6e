"""Runs prompts through a model in batches of one length, so that no module sees padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("source", "target")
"""The parts of a task: abilities of the base, and the training's aim."""


def spread(prompts: Sequence[Sequence[int]], number: int) -> list[Sequence[int]]:
    """Return at most `number` prompts, evenly spread, so that every suite is represented."""
    if len(prompts) <= number:
        return list(prompts)
    return [prompts[i * len(prompts) // number] for i in range(number)]


def token_batches(
    prompts: Sequence[Sequence[int]], batch_size: int, device: Any, on_progress: Callable[[int, int], None]
) -> Iterator[Tensor]:
    """Yield token ids, shape [prompts of one length, tokens].

    Args:
        prompts: token ids.
        batch_size: the most prompts in a batch.
        device: the device of the batches.
        on_progress: called after the use of each batch with the number of prompts done and of all prompts.
    """
    import torch

    from gmt.evaluation.padding import batches

    done = 0
    for batch in batches(prompts, list(range(len(prompts))), batch_size, padded=False):
        yield torch.tensor([list(prompts[i]) for i in batch], device=device)
        done += len(batch)
        on_progress(done, len(prompts))


def run_prompts(
    model: Any, prompts: Sequence[Sequence[int]], batch_size: int, on_progress: Callable[[int, int], None]
) -> None:
    """Run prompts through a model, for the hooks on its modules.

    Args:
        model: a model on any device, in eval mode.
        prompts: token ids.
        batch_size: the most prompts in a forward pass.
        on_progress: called with the number of prompts done and of all prompts.
    """
    import torch

    with torch.inference_mode():
        for ids in token_batches(prompts, batch_size, model.device, on_progress):
            model(input_ids=ids, use_cache=False)
