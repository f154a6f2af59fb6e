"""Makes batches in which each text gets the logits that it would get alone, also for models that padding affects.

Most models ignore padding. Some do not (RWKV with padding on the left, models whose code does not derive learnt
positions from the mask, models that look ahead), so each model class is tried once, on a few tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gmt.evaluation.greedy import greedy
from gmt.models.forward_key import forward_key

_SHORT, _LONG, _NUM_NEW = 3, 8, 3
_KNOWN: dict[tuple[Any, ...], bool] = {}


def batches(ids: Sequence[Sequence[int]], indices: Sequence[int], size: int, *, padded: bool) -> Iterator[list[int]]:
    """Yield batches of texts, as lists of their indices.

    Args:
        ids: the tokens of every text.
        indices: the indices of the texts to batch; batches follow their order if `padded`, else the texts' lengths.
        size: the most texts in a batch.
        padded: whether a batch may hold texts of different lengths.
    """
    batch: list[int] = []
    for i in indices if padded else sorted(indices, key=lambda i: len(ids[i])):
        if batch and (len(batch) == size or (not padded and len(ids[i]) != len(ids[batch[0]]))):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def tensors(ids: Sequence[Sequence[int]], pad: int, device: Any, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return the padded tokens [batch, width] and their attention mask.

    Args:
        ids: the tokens of each text.
        pad: the token that pads.
        device: the device of the result.
        left: whether padding comes before a text instead of behind it.
    """
    width = max(map(len, ids))
    tokens, mask = [], []
    for row in ids:
        pads, ones = [pad] * (width - len(row)), [1] * len(row)
        tokens.append([*pads, *row] if left else [*row, *pads])
        mask.append([0] * len(pads) + ones if left else ones + [0] * len(pads))
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


def sees_padding(model: PreTrainedModel, tokens: Sequence[int], pad: int, *, left: bool) -> bool:
    """Return whether the padding beside a text changes the model's logits for it.

    Args:
        model: a model in eval mode.
        tokens: tokens that it has embeddings for; they are repeated as needed.
        pad: the token that pads.
        left: whether the padding is before the text, which the model then continues, or behind it.
    """
    key = (*forward_key(model), left)
    if key not in _KNOWN:
        long = list(islice(cycle(tokens or [pad]), _LONG))
        logits = _logits_of_generated if left else _logits_of_text
        alone, beside = (logits(model, rows, pad) for rows in ([long[:_SHORT]], [long[:_SHORT], long]))
        same_tokens = [a.argmax() == b.argmax() for a, b in zip(alone, beside, strict=True)] if left else []
        end = same_tokens.index(False) + 1 if False in same_tokens else len(alone)  # later logits follow other tokens
        rounding = 1e-3 if model.dtype == torch.float32 else 5e-2
        difference = (alone - beside)[:end].abs().max()
        _KNOWN[key] = not bool(difference <= rounding * (1 + alone[:end].abs().max()))
    return _KNOWN[key]


def _logits_of_text(model: PreTrainedModel, rows: list[list[int]], pad: int) -> Tensor:
    """Return the logits [position, vocabulary] of the first text's tokens."""
    ids, mask = tensors(rows, pad, model.device, left=False)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits[0, :_SHORT]
    return logits.float()


def _logits_of_generated(model: PreTrainedModel, rows: list[list[int]], pad: int) -> Tensor:
    """Return the logits [position, vocabulary] of the tokens that are generated after the first text."""
    ids, mask = tensors(rows, pad, model.device, left=True)
    with torch.inference_mode(), greedy(model, ends=None, pad=pad):
        generated: Any = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=_NUM_NEW,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack([step[0].float() for step in generated.logits])
