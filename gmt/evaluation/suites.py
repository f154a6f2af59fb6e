"""Asks a suite's questions by greedy generation in batches. Does not know how the model was trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from gmt.evaluation.context import token_ids
from gmt.evaluation.greedy import answer_ends, greedy
from gmt.evaluation.padding import batches, sees_padding, tensors
from gmt.evaluation.stored_values import StoredValues
from gmt.tasks.protocol import EvaluationInputs, Score, Suite
from gmt.tasks.returned_values import answer_score
from gmt.tasks.turns import frame_of

BATCH_SIZE = 256


def ask(suite: Suite, inputs: EvaluationInputs) -> Score:
    """Ask every question of a suite, which must have been checked.

    Returns:
        The fraction of the questions whose answer scores 1, and for each question its prompt, answer and score.

    Raises:
        UserError: a score does not lie in [0, 1].
    """
    texts = generate(inputs, suite)
    scores = [answer_score(suite.score, i, text) for i, text in enumerate(texts)]
    rows = [
        {"prompt": prompt, "answer": text, "score": score}
        for prompt, text, score in zip(suite.prompts, texts, scores, strict=True)
    ]
    return Score(metric="exact_match", value=sum(s == 1 for s in scores) / len(scores), answers=rows)


def generate(inputs: EvaluationInputs, suite: Suite) -> list[str]:
    """Return the model's answer to each prompt, without outer blanks; stored answers are not generated again."""
    ids = [token_ids(inputs, prompt) for prompt in suite.prompts]
    stored = StoredValues(inputs.scratch / "answers.jsonl")
    texts = stored.read()
    remaining = sorted(set(range(len(ids))) - texts.keys(), key=lambda i: len(ids[i]))  # similar lengths pad little

    def on_token() -> None:
        inputs.on_progress(len(texts), len(ids))

    pad, frame = inputs.tokenizer.pad_token_id, frame_of(inputs.tokenizer, is_chat=inputs.is_chat)
    ends = answer_ends(inputs.model, inputs.tokenizer, frame)
    expected = suite.expected or suite.answers or [""] * len(ids)
    padded = not (remaining and sees_padding(inputs.model, ids[remaining[0]], pad, left=True))
    with greedy(inputs.model, ends=ends, pad=pad):
        for batch in batches(ids, remaining, BATCH_SIZE, padded=padded):
            generated = _generate_fitting(inputs, [ids[i] for i in batch], suite.max_new_tokens, on_token)
            right_answers = [expected[i] for i in batch]
            generated_texts = (
                frame.answer_in(inputs.tokenizer, row, ends, right=right)
                for row, right in zip(generated, right_answers, strict=True)
            )
            answers = {i: text.strip() for i, text in zip(batch, generated_texts, strict=True)}
            stored.add(answers)
            texts |= answers
            on_token()
    return [texts[i] for i in range(len(ids))]


def _generate_fitting(
    inputs: EvaluationInputs, ids: list[list[int]], max_new_tokens: int, on_token: Callable[[], None]
) -> list[list[int]]:
    """Return the tokens of a batch's answers, generated in halves if the GPU's memory does not hold the whole batch."""
    try:
        return _generate(inputs, ids, max_new_tokens, on_token)
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise
    half = len(ids) // 2
    return [
        row for part in (ids[:half], ids[half:]) for row in _generate_fitting(inputs, part, max_new_tokens, on_token)
    ]


class _ProgressPerToken(StoppingCriteria):
    """Report progress after each token."""

    def __init__(self, on_token: Callable[[], None]):
        self._on_token = on_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._on_token()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def _generate(
    inputs: EvaluationInputs, ids: list[list[int]], max_new_tokens: int, on_token: Callable[[], None]
) -> list[list[int]]:
    model, tokenizer = inputs.model, inputs.tokenizer
    frame = frame_of(tokenizer, is_chat=inputs.is_chat)
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
