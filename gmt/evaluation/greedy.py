"""Generates greedily, even if the generation config in the model's folder asks for sampling, beams or penalties.

transformers reads the options that a call leaves out from `model.generation_config`, so `greedy` replaces that config.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from gmt.tasks.turns import Frame


@contextmanager
def greedy(model: PreTrainedModel, *, ends: Sequence[int] | None, pad: int | None) -> Iterator[None]:
    """Make `model.generate` greedy inside the block; the model's generation config is restored at its end.

    Args:
        model: a model on any device.
        ends: the tokens that end an answer; None for no such token.
        pad: the token that pads.
    """
    attributes: dict[str, Any] = vars(model)
    original_config = model.generation_config
    generate = attributes.pop("generate", None)  # code that came with the model may have set its own
    config_class: Any = GenerationConfig
    model.generation_config = config_class(eos_token_id=None if ends is None else [*ends], pad_token_id=pad)
    try:
        yield
    finally:
        model.generation_config = original_config
        if generate is not None:
            attributes["generate"] = generate


def answer_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, frame: Frame) -> list[int]:
    """Return the tokens that end an answer: those of the chat template, the tokenizer, and the generation config."""
    config_end = model.generation_config.eos_token_id if model.generation_config is not None else None
    config_ends = config_end if isinstance(config_end, list) else [config_end]
    return sorted({token for token in (tokenizer.eos_token_id, frame.end, *config_ends) if token is not None})
