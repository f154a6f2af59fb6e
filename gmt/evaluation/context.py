"""Refuses prompts beyond the context and tokens without an embedding, before a run starts. Imports no torch."""

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
    """The most tokens that a model takes; None where its config names no limit.

    For LongRoPE models: the context length of the original pretraining. A single text beyond it would change the
    positions of all others in its batch.
    """
    ropes = getattr(config.get_text_config(), "rope_parameters", None) or {}
    each = [ropes, *(rope for rope in ropes.values() if isinstance(rope, Mapping))]  # some have one for a kind of layer
    long = [rope.get("original_max_position_embeddings") for rope in each if rope.get("rope_type") == "longrope"]
    limits = [context_alone(config), *long]
    return min((limit for limit in limits if limit is not None), default=None)


def context_alone(config: PreTrainedConfig) -> int | None:
    """Return the most tokens of a text that is alone in its batch; None where the config names no limit."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def check_fits(suite: str, num_tokens: int, longest: int, advice: str) -> None:
    """Refuses a prompt.

    Args:
        suite: the word for what asks it.
        num_tokens: of the prompt.
        longest: tokens that the context has left beside the answer.
        advice: what would make it fit.

    Raises:
        UserError: there are more.
    """
    if num_tokens > longest:
        raise UserError(
            f"{suite} asks a prompt of {num_tokens} tokens, and the model's context has room for {max(longest, 0)} "
            f"beside the answer; ask {advice}"
        )


def check_tokens(what: str, ids: Iterable[int], num_embeddings: int) -> None:
    """Refuses a token without an embedding: it breaks a forward pass in its middle, on a GPU without a word of why.

    Args:
        what: where the tokens come from.
        ids: their numbers.
        num_embeddings: of the model.

    Raises:
        UserError: there is one.
    """
    if (largest := max(ids, default=0)) >= num_embeddings:
        raise UserError(
            f"model.path must name a model with an embedding for every token, and its tokenizer gives {what} the "
            f"number {largest}, where there are {num_embeddings}"
        )


def check_suite(suite: Suite, reader: Reader) -> None:
    """Refuses a suite of which a prompt and its answer do not fit the model's context, or a token has no embedding.

    Raises:
        UserError: with the number of tokens, or of the token.
    """
    prompts = [token_ids(reader, prompt) for prompt in suite.prompts]
    check_tokens(f"a token of {suite.name}'s prompts", chain.from_iterable(prompts), reader.num_embeddings)
    longest = max(map(len, prompts))
    if reader.context is not None:
        room = reader.context - suite.max_new_tokens - frame_of(reader.tokenizer, is_chat=reader.is_chat).num_tokens
        check_fits(suite.name, longest, room, "for a shorter one (max_new_tokens)")


def token_ids(reader: Reader, prompt: str) -> list[int]:
    """A prompt as the model is given it: plain, or as a user's turn."""
    if reader.is_chat:
        return chat_ids(reader.tokenizer, [{"role": "user", "content": prompt}], answer_follows=True)
    return prompt_ids(reader.tokenizer, prompt)
