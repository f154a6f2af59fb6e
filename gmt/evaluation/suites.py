"""Batched greedy generation over a suite. Knows nothing of how the model was trained."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gmt.evaluation.context import check_fits
from gmt.tasks.protocol import Asked, Score, Suite
from gmt.tasks.tokens import chat_ids, prompt_ids

BATCH_SIZE = 256


def ask(suite: Suite, asked: Asked) -> Score:
    """Asks every question of a suite.

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
    """What the model says to each prompt, without blanks around it.

    Raises:
        UserError: a prompt and its answer do not fit the model's context.
    """
    ids = [_prompt_ids(asked, prompt) for prompt in suite.prompts]
    context = getattr(asked.model.config, "max_position_embeddings", None)
    if context is not None:
        check_fits(suite.name, max(map(len, ids)), context - suite.max_new_tokens)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # batches of like length need little padding
    texts = [""] * len(ids)
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        answers = _generate_fitting(asked.model, asked.tokenizer, [ids[i] for i in batch], suite.max_new_tokens)
        for i, text in zip(batch, answers, strict=True):
            texts[i] = text.strip()
        asked.on_progress(min(start + BATCH_SIZE, len(order)), len(order))
    return texts


def _prompt_ids(asked: Asked, prompt: str) -> list[int]:
    if asked.is_chat:
        return chat_ids(asked.tokenizer, [{"role": "user", "content": prompt}], answer_follows=True)
    return prompt_ids(asked.tokenizer, prompt)


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
        eos_token_id=_ends(model, tokenizer),
    )
    texts: list[str] = tokenizer.batch_decode(generated[:, width:], skip_special_tokens=True)
    return texts


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those that the model was made to end turns with."""
    of_model = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = of_model if isinstance(of_model, list) else [of_model]
    return sorted({tokenizer.eos_token_id, *(each for each in listed if each is not None)})
