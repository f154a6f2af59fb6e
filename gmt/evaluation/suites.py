"""Batched greedy generation over a suite. Knows nothing of how the model was trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from gmt.evaluation.context import token_ids
from gmt.evaluation.greedy import answer_ends, greedy
from gmt.evaluation.kept import Kept
from gmt.evaluation.padding import batches, sees_padding, tensors
from gmt.tasks.protocol import Asked, Score, Suite
from gmt.tasks.turns import frame_of

BATCH_SIZE = 256


def ask(suite: Suite, asked: Asked) -> Score:
    """Asks every question of a suite that is checked.

    Returns:
        The fraction of the questions whose answer scores 1, and each answer: prompt, answer, score.
    """
    texts = generate(asked, suite)
    scores = [suite.score(i, text) for i, text in enumerate(texts)]
    rows = [
        {"prompt": prompt, "answer": text, "score": score}
        for prompt, text, score in zip(suite.prompts, texts, scores, strict=True)
    ]
    return Score(metric="exact_match", value=sum(s == 1 for s in scores) / len(scores), answers=rows)


def generate(asked: Asked, suite: Suite) -> list[str]:
    """What the model says to each prompt, without blanks around it; batches answered before a kill are read."""
    ids = [token_ids(asked, prompt) for prompt in suite.prompts]
    kept = Kept(asked.scratch / "answers.jsonl")
    texts = kept.read()
    left = sorted(set(range(len(ids))) - texts.keys(), key=lambda i: len(ids[i]))  # like lengths need little padding

    def on_token() -> None:
        asked.on_progress(len(texts), len(ids))

    pad, frame = asked.tokenizer.pad_token_id, frame_of(asked.tokenizer, is_chat=asked.is_chat)
    ends = answer_ends(asked.model, asked.tokenizer, frame)
    padded = not (left and sees_padding(asked.model, ids[left[0]], pad, left=True))
    with greedy(asked.model, ends=ends, pad=pad):
        for batch in batches(ids, left, BATCH_SIZE, padded=padded):
            said = _generate_fitting(asked, [ids[i] for i in batch], suite.max_new_tokens, on_token)
            right = ["" if suite.answers is None else suite.answers[i] for i in batch]
            texts_said = (
                frame.answer_in(asked.tokenizer, row, ends, right=text) for row, text in zip(said, right, strict=True)
            )
            answers = {i: text.strip() for i, text in zip(batch, texts_said, strict=True)}
            kept.add(answers)
            texts |= answers
            on_token()
    return [texts[i] for i in range(len(ids))]


def _generate_fitting(
    asked: Asked, ids: list[list[int]], max_new_tokens: int, on_token: Callable[[], None]
) -> list[list[int]]:
    """Return the tokens of answers in one batch, or in halves where the GPU's memory does not hold it."""
    try:
        return _generate(asked, ids, max_new_tokens, on_token)
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise
    half = len(ids) // 2
    return [
        row for part in (ids[:half], ids[half:]) for row in _generate_fitting(asked, part, max_new_tokens, on_token)
    ]


class _ProgressPerToken(StoppingCriteria):
    """Report progress after each token."""

    def __init__(self, on_token: Callable[[], None]):
        self._on_token = on_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._on_token()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def _generate(asked: Asked, ids: list[list[int]], max_new_tokens: int, on_token: Callable[[], None]) -> list[list[int]]:
    model, tokenizer = asked.model, asked.tokenizer
    frame = frame_of(tokenizer, is_chat=asked.is_chat)
    tokens, attention = tensors(ids, tokenizer.pad_token_id, model.device, left=True)
    generated = model.generate(  # type: ignore[operator]
        input_ids=tokens,
        attention_mask=attention,
        max_new_tokens=max_new_tokens + frame.num_tokens,
        stop_strings=frame.stop_text,
        tokenizer=tokenizer,
        stopping_criteria=StoppingCriteriaList([_ProgressPerToken(on_token)]),
    )
    rows: list[list[int]] = generated[:, tokens.shape[1] :].tolist()
    return rows
