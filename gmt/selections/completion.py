"""The completion of an example: its tokens, its length, and its loss under a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from gmt.tasks.tokens import IGNORED, TokenExample, Tokens

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def completion(example: Tokens) -> TokenExample:
    """Return an example unchanged; for a preference, its prompt with the preferred answer."""
    if "input_ids" in example:
        return cast(TokenExample, example)
    prompt, chosen = example["prompt_ids"], example["chosen_ids"]
    return {"input_ids": prompt + chosen, "labels": [IGNORED] * len(prompt) + chosen}


def prompt_of(example: Tokens) -> tuple[int, ...]:
    """Return the tokens before the completion's first token."""
    tokens = completion(example)
    labels = tokens["labels"]
    return tuple(tokens["input_ids"][: next((i for i, label in enumerate(labels) if label != IGNORED), len(labels))])


def length_of(example: Tokens) -> int:
    """Return the number of the completion's tokens, over all turns of a conversation."""
    return sum(label != IGNORED for label in completion(example)["labels"])


def loss_of(model: PreTrainedModel, example: Tokens) -> Tensor:
    """Return the mean negative log-likelihood of the completion's tokens, in nats a token, as a float32 scalar.

    Each token is conditioned on all earlier tokens of the example, the prompt included, and on no other example.

    Args:
        model: a model in eval mode.
        example: an example whose completion has at least one token after the example's first token.
    """
    import torch
    from torch.nn.functional import cross_entropy

    tokens = completion(example)
    ids = torch.tensor([tokens["input_ids"]], device=model.device)
    targets = torch.tensor(tokens["labels"][1:], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, :-1]
    return cross_entropy(logits[targets != IGNORED].float(), targets[targets != IGNORED])


def loss_measurer(model: PreTrainedModel) -> Callable[[Tokens], tuple[float]]:
    """Return the function that measures an example's loss under a model; see `loss_of`."""

    def measure(example: Tokens) -> tuple[float]:
        import torch

        with torch.inference_mode():
            return (float(loss_of(model, example)),)

    return measure


MEASURED_BY_LOSS = {"measure": "length-normalised loss"}
"""`measured_by` of every selection that uses `loss_measurer`, so that they share their measures."""
