"""Prompts that do not fit a model's context are refused: one that was cut asks something else. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.tasks.protocol import Reader, Suite
from gmt.tasks.tokens import chat_ids, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def context_of(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model takes; None where its config names no limit."""
    context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return context


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


def check_suite(suite: Suite, reader: Reader) -> None:
    """Refuses a suite of which a prompt and its answer do not fit the model's context.

    Raises:
        UserError: with the number of tokens.
    """
    longest = max(len(token_ids(reader, prompt)) for prompt in suite.prompts)
    if reader.context is not None:
        check_fits(suite.name, longest, reader.context - suite.max_new_tokens, "for a shorter one (max_new_tokens)")


def token_ids(reader: Reader, prompt: str) -> list[int]:
    """A prompt as the model is given it: plain, or as a user's turn."""
    if reader.is_chat:
        return chat_ids(reader.tokenizer, [{"role": "user", "content": prompt}], answer_follows=True)
    return prompt_ids(reader.tokenizer, prompt)
