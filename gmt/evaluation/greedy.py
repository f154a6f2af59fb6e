"""Answers by a generation config of our own: greedy, whatever the model's folder says of sampling, beams or penalties.

transformers fills up what a call leaves open from `model.generation_config`, so that is replaced meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from gmt.tasks.turns import Frame


@contextmanager
def greedy(model: PreTrainedModel, *, ends: Sequence[int] | None, pad: int | None) -> Iterator[None]:
    """Makes `model.generate` greedy; afterwards the model has the generation config of its folder again.

    Args:
        model: on any device.
        ends: the tokens that end an answer; None for none.
        pad: the token that pads.
    """
    attributes: dict[str, Any] = vars(model)
    own = model.generation_config
    generate = attributes.pop("generate", None)  # code that came with the model generates in its own way
    ours: Any = GenerationConfig
    model.generation_config = ours(eos_token_id=None if ends is None else [*ends], pad_token_id=pad)
    try:
        yield
    finally:
        model.generation_config = own
        if generate is not None:
            attributes["generate"] = generate


def answer_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, frame: Frame) -> list[int]:
    """The tokens that end an answer: the template's, the tokenizer's, and those that the model was made to end with."""
    of_model = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = of_model if isinstance(of_model, list) else [of_model]
    return sorted({token for token in (tokenizer.eos_token_id, frame.end, *listed) if token is not None})
