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


def check_fits(suite: str, num_tokens: int, longest: int, advice: str) -> None:
    """Refuse a prompt that is too long.

    Args:
        suite: the name of the suite or benchmark.
        num_tokens: the length of the prompt in tokens.
        longest: the number of tokens that the context leaves beside the answer.
        advice: a clause that says how to make it fit.

    Raises:
        UserError: the prompt is longer than `longest`.
    """
    if num_tokens > longest:
        raise UserError(
            f"{suite} has a prompt of {num_tokens} tokens, and the model's context has room for {max(longest, 0)} "
            f"beside the answer; ask {advice}"
        )


def check_tokens(subject: str, ids: Iterable[int], num_embeddings: int) -> None:
    """Refuse a token without an embedding; in a forward pass it would raise an error that does not name it.

    Args:
        subject: words for the tokens' origin.
        ids: the tokens.
        num_embeddings: the number of the model's embeddings.

    Raises:
        UserError: a token has no embedding.
    """
    if (largest := max(ids, default=0)) >= num_embeddings:
        raise UserError(
            f"model.path must name a model with an embedding for every token, and its tokenizer gives {subject} the "
            f"number {largest}, where there are {num_embeddings}"
        )


def check_suite(suite: Suite, reader: Reader) -> None:
    """Refuse a suite with a prompt that, with its answer, does not fit the model's context, or without an embedding.

    Raises:
        UserError: a prompt is too long, or a token has no embedding; the sentence has the numbers.
    """
    prompts = [token_ids(reader, prompt) for prompt in suite.prompts]
    check_tokens(f"a token of {suite.name}'s prompts", chain.from_iterable(prompts), reader.num_embeddings)
    longest = max(map(len, prompts))
    if reader.context is not None:
        room = reader.context - suite.max_new_tokens - frame_of(reader.tokenizer, is_chat=reader.is_chat).num_tokens
        check_fits(suite.name, longest, room, "for a shorter one (max_new_tokens)")


def token_ids(reader: Reader, prompt: str) -> list[int]:
    """Return the tokens of a prompt as the model gets it: plain, or as a user's turn."""
    if reader.is_chat:
        return chat_ids(reader.tokenizer, [{"role": "user", "content": prompt}], answer_follows=True)
    return prompt_ids(reader.tokenizer, prompt)
