"""Text examples to token examples; counts what had to be left out. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from gmt.errors import UserError
from gmt.tasks.protocol import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch's cross entropy passes these labels by


class TokenExample(TypedDict):
    """One example as token ids; the labels of the prompt are IGNORED, so the loss is on the completion only."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, kw_only=True)
class TokenizedExamples:
    """The training examples as tokens, and how many were dropped because they are longer than the context."""

    examples: Sequence[TokenExample]
    num_dropped: int


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """A prompt as token ids, behind the beginning-of-sequence token if the tokenizer has one."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]


def tokenize(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], *, max_length: int) -> TokenizedExamples:
    """Turns examples into prompt, completion and end-of-sequence token.

    Args:
        tokenizer: of the model that trains.
        examples: as the task gives them.
        max_length: an example of more tokens is dropped, since one without its end teaches the wrong thing.

    Raises:
        UserError: there is no example, or every one is too long.
    """
    if not examples:
        raise UserError("task.train leaves no training example once the questions of its suites are taken out")
    kept: list[TokenExample] = []
    shortest = None
    for example in examples:
        prompt = prompt_ids(tokenizer, example.prompt)
        completion = [
            *tokenizer(example.completion, add_special_tokens=False)["input_ids"],
            tokenizer.eos_token_id,
        ]
        length = len(prompt) + len(completion)
        shortest = length if shortest is None else min(shortest, length)
        if length <= max_length:
            kept.append({"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion})
    if not kept:
        raise UserError(
            f"train.max_length must leave a training example, got {max_length}: the shortest has {shortest} tokens"
        )
    return TokenizedExamples(examples=kept, num_dropped=len(examples) - len(kept))
