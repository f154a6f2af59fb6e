"""Perplexity on texts that nobody trained on: forgetting without a benchmark's format in the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from gmt import settings
from gmt.errors import UserError
from gmt.evaluation.context import check_tokens
from gmt.evaluation.kept import Kept
from gmt.tasks.columns import origin, texts_of
from gmt.tasks.protocol import Asked, Reader, Score
from gmt.used_files import UsedFiles


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Perplexity of held-out texts, each seen from its beginning: exp of the mean negative log-likelihood of a token.

    Args:
        data: as of a DatasetTask.
        column: holds the text.
        max_length: tokens of a text that count; the rest is left out.
        batch_size: texts in a forward pass.

    Raises:
        UserError: data that can't be had, or a number out of its range.
    """

    data: Mapping[str, Any]
    column: str
    max_length: int
    batch_size: int

    def __post_init__(self) -> None:
        origin("data", self.data)
        settings.text("column", self.column)
        settings.integer("max_length", self.max_length, low=2)
        settings.integer("batch_size", self.batch_size, low=1)

    @property
    def is_score(self) -> bool:
        """Less is better, and there is no best."""
        return False

    def fingerprint(self) -> str:
        """Of the data."""
        return origin("data", self.data).fingerprint()

    def used_files(self) -> dict[str, UsedFiles]:
        """The files that hold the texts."""
        return {"data": origin("data", self.data).used_files()}

    def check(self, reader: Reader) -> None:
        """Refuses data without a text, texts beyond the model's context, and tokens without an embedding."""
        ids = [row for _, row in self._texts(reader)]
        check_tokens("a token of the texts", chain.from_iterable(ids), reader.num_embeddings)
        longest = max(map(len, ids))
        if longest < 2:
            raise UserError(f"data must hold a text of at least 2 tokens, got {self.data['path']!r}")
        if reader.context is not None and longest > reader.context:
            raise UserError(f"max_length must be at most {reader.context}, the model's context, got {self.max_length}")

    def evaluate(self, asked: Asked) -> Score:
        """The perplexity, and that of each text; batches that were asked before a kill are read."""
        from gmt.evaluation.padding import batches, sees_padding  # they import torch, which planning does without

        texts, ids = zip(*self._texts(asked), strict=True)
        long = [i for i, row in enumerate(ids) if len(row) > 1]
        kept = Kept(asked.scratch / "losses.jsonl")
        losses = kept.read()
        left = [i for i in long if i not in losses]
        padded = not (left and sees_padding(asked.model, ids[left[0]], asked.tokenizer.pad_token_id, left=False))
        for batch in batches(ids, left, self.batch_size, padded=padded):
            found = dict(zip(batch, _losses(asked, [ids[i] for i in batch]), strict=True))
            kept.add(found)
            losses |= found
            asked.on_progress(len(losses), len(long))
        rows = [{"prompt": texts[i], "answer": "", "score": math.exp(losses[i] / (len(ids[i]) - 1))} for i in long]
        total, count = sum(losses[i] for i in long), sum(len(ids[i]) - 1 for i in long)
        return Score(metric="perplexity", value=math.exp(total / count), answers=rows)

    def _texts(self, reader: Reader) -> list[tuple[str, list[int]]]:
        texts = texts_of("data", self.data, self.column)
        return [(text, reader.tokenizer(text)["input_ids"][: self.max_length]) for text in texts]


def _losses(asked: Asked, ids: Sequence[Sequence[int]]) -> list[float]:
    """The negative log-likelihood of each text's tokens behind its first, in nats, summed in float32."""
    import torch
    from torch.nn.functional import cross_entropy

    from gmt.evaluation.padding import tensors

    tokens, attention = tensors(ids, asked.tokenizer.pad_token_id, asked.model.device, left=False)
    with torch.inference_mode():
        logits = asked.model(input_ids=tokens, attention_mask=attention).logits[:, :-1].float()
        each = cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return [float(loss) for loss in (each * attention[:, 1:]).sum(dim=1)]
