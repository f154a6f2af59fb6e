"""Refuses prompts longer than the context, and tokens without an embedding, before a run starts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.tasks.protocol import Reader, Suite
from gmt.tasks.tokens import chat_ids, prompt_ids
from gmt.tasks.turns import frame_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def context_of(config: PreTrainedConfig) -> int | None:
    """Return the context length in tokens; None if the config names no limit.

    For LongRoPE models it is the context length of the original pretraining, since a longer text would change the
    positions of all other texts in its batch.
    """
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    ropes = [parameters, *(rope for rope in parameters.values() if isinstance(rope, Mapping))]  # or one by layer type
    long = [rope.get("original_max_position_embeddings") for rope in ropes if rope.get("rope_type") == "longrope"]
    limits = [context_alone(config), *long]
    return min((limit for limit in limits if limit is not None), default=None)


def context_alone(config: PreTrainedConfig) -> int | None:
    """Return the context length for a text that is alone in its batch; None if the config names no limit."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def check_fits(suite: str, num_tokens: int, max_tokens: int, remedy: str) -> None:
    """Refuse a prompt that is too long.

    Args:
        suite: the name of the suite or benchmark.
        num_tokens: the length of the prompt in tokens.
        max_tokens: the number of tokens that the context leaves beside the answer.
        remedy: a clause that says how to make the prompt fit.

    Raises:
        UserError: the prompt is longer than `max_tokens`.
    """
    if num_tokens > max_tokens:
        raise UserError(
            f"{suite} has a prompt of {num_tokens} tokens, but the model's context has room for {max(max_tokens, 0)} "
            f"beside the answer; {remedy}"
        )


def check_tokens(subject: str, ids: Iterable[int], num_embeddings: int) -> None:
    """Refuse a token without an embedding; in a forward pass it would raise an error that does not name it.

    Args:
        subject: words that say where the tokens come from.
        ids: the tokens.
        num_embeddings: the number of the model's embeddings.

    Raises:
        UserError: a token has no embedding.
    """
    if (largest := max(ids, default=0)) >= num_embeddings:
        raise UserError(
            f"model.path must name a model with an embedding for every token, but its tokenizer gives {subject} the "
            f"id {largest}, and the model has {num_embeddings} embeddings"
        )


def check_suite(suite: Suite, reader: Reader) -> None:
    """Refuse a suite with a prompt that leaves no room for an answer in the context, or has a token without embedding.

    Raises:
        UserError: a prompt is too long, or a token has no embedding; the sentence has the numbers.
    """
    prompts = [token_ids(reader, prompt) for prompt in suite.prompts]
    check_tokens(f"a token of {suite.name}'s prompts", chain.from_iterable(prompts), reader.num_embeddings)
    longest = max(map(len, prompts))
    if reader.context is not None:
        room = reader.context - suite.max_new_tokens - frame_of(reader.tokenizer, is_chat=reader.is_chat).num_tokens
        check_fits(suite.name, longest, room, "set a smaller max_new_tokens or shorten the prompt")


def token_ids(reader: Reader, prompt: str) -> list[int]:
    """Return the tokens of a prompt as the model gets it: plain, or as a user's turn."""
    if reader.is_chat:
        return chat_ids(reader.tokenizer, [{"role": "user", "content": prompt}], answer_follows=True)
    return prompt_ids(reader.tokenizer, prompt)
