"""Batched greedy generation over a suite. Knows nothing of how the model was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gmt.tasks.protocol import Suite
from gmt.tasks.tokens import prompt_ids

BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """The outcome of one suite.

    Args:
        name: the suite's.
        exact_match: fraction of the questions whose answer scores 1, in [0, 1].
        answers: one row a question: prompt, answer, score.
    """

    name: str
    exact_match: float
    answers: Sequence[Mapping[str, Any]]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suites: Sequence[Suite],
    *,
    max_new_tokens: int,
    on_batch: Callable[[], None],
) -> list[SuiteResult]:
    """Asks every question of every suite; the model is left in eval mode.

    Args:
        model: on any device.
        tokenizer: its pad token pads.
        suites: the questions and their scorers.
        max_new_tokens: of an answer.
        on_batch: called after each batch of answers.
    """
    model.eval()  # type: ignore[no-untyped-call]
    return [_ask(model, tokenizer, suite, max_new_tokens, on_batch) for suite in suites]


def _ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    max_new_tokens: int,
    on_batch: Callable[[], None],
) -> SuiteResult:
    ids = [prompt_ids(tokenizer, prompt) for prompt in suite.prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # batches of like length need little padding
    texts = [""] * len(ids)
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        answers = _generate_fitting(model, tokenizer, [ids[i] for i in batch], max_new_tokens)
        for i, text in zip(batch, answers, strict=True):
            texts[i] = text.strip()
        on_batch()
    scores = [suite.score(i, text) for i, text in enumerate(texts)]
    rows = [
        {"suite": suite.name, "prompt": prompt, "answer": text, "score": score}
        for prompt, text, score in zip(suite.prompts, texts, scores, strict=True)
    ]
    return SuiteResult(name=suite.name, exact_match=sum(s == 1 for s in scores) / len(scores), answers=rows)


def _generate_fitting(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], max_new_tokens: int
) -> list[str]:
    """Answers in one batch, or in halves where the GPU's memory does not hold it."""
    try:
        return _generate(model, tokenizer, ids, max_new_tokens)
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise
    half = len(ids) // 2
    return [
        text for part in (ids[:half], ids[half:]) for text in _generate_fitting(model, tokenizer, part, max_new_tokens)
    ]


@torch.inference_mode()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], max_new_tokens: int
) -> list[str]:
    width = max(len(row) for row in ids)
    pad = tokenizer.pad_token_id
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=model.device)
    attention = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    generated = model.generate(  # type: ignore[operator]
        input_ids=tokens,
        attention_mask=attention,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts: list[str] = tokenizer.batch_decode(generated[:, width:], skip_special_tokens=True)
    return texts
