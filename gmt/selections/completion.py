"""What is learnt of an example: the completion that is chosen, its length, and its loss under a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from gmt.tasks.tokens import IGNORED, TokenExample, Tokens

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def completion(example: Tokens) -> TokenExample:
    """Return an example as it is; of a preference, the prompt with the answer that is preferred."""
    if "input_ids" in example:
        return cast(TokenExample, example)
    prompt, chosen = example["prompt_ids"], example["chosen_ids"]
    return {"input_ids": prompt + chosen, "labels": [IGNORED] * len(prompt) + chosen}


def prompt_of(example: Tokens) -> tuple[int, ...]:
    """Return the tokens before the first that is learnt."""
    tokens = completion(example)
    labels = tokens["labels"]
    return tuple(tokens["input_ids"][: next((i for i, label in enumerate(labels) if label != IGNORED), len(labels))])


def length_of(example: Tokens) -> int:
    """Return the number of tokens that are learnt: of a conversation, over all turns; of a preference, see above."""
    return sum(label != IGNORED for label in completion(example)["labels"])


def loss_of(model: PreTrainedModel, example: Tokens) -> Tensor:
    """Return the mean negative log-likelihood of the tokens that are learnt, in nats a token, as a float32 scalar.

    Each token is conditioned on all before it, those of the prompt included, with nothing beside the example.

    Args:
        model: in eval mode.
        example: of which at least one token behind the first is learnt.
    """
    import torch
    from torch.nn.functional import cross_entropy

    tokens = completion(example)
    ids = torch.tensor([tokens["input_ids"]], device=model.device)
    targets = torch.tensor(tokens["labels"][1:], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, :-1]
    return cross_entropy(logits[targets != IGNORED].float(), targets[targets != IGNORED])


def loss_measurer(model: PreTrainedModel) -> Callable[[Tokens], tuple[float]]:
    """Return the function that gives an example's loss under a model; see `loss_of`."""

    def measure(example: Tokens) -> tuple[float]:
        import torch

        with torch.inference_mode():
            return (float(loss_of(model, example)),)

    return measure


MEASURED_BY_LOSS = {"measure": "length-normalised loss"}
"""Of every selection that uses `loss_measurer`: one pass over the examples serves them all."""
