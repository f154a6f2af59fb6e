"""Perplexity on held-out texts: measures forgetting independently of any benchmark's format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from gmt import settings
from gmt.errors import UserError
from gmt.evaluation.context import check_tokens
from gmt.evaluation.stored_values import StoredValues
from gmt.tasks.columns import source_of_rows, texts_of
from gmt.tasks.protocol import EvaluationInputs, Reader, Score
from gmt.used_files import UsedFiles


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Perplexity of held-out texts, each read from its beginning: exp of the mean negative log-likelihood of a token.

    Args:
        data: the dataset: path, subset, revision, split, num_examples and seed, see gmt.tasks.dataset.DatasetTask.
        column: the column that holds the text.
        max_length: the number of tokens of a text that are read, from its first on.
        batch_size: texts in a forward pass.

    Raises:
        UserError: a key of `data` is wrong or its path does not exist, or a number is out of its range.
    """

    data: Mapping[str, Any]
    column: str
    max_length: int
    batch_size: int

    def __post_init__(self) -> None:
        source_of_rows("data", self.data)
        settings.text("column", self.column)
        settings.integer("max_length", self.max_length, low=2)
        settings.integer("batch_size", self.batch_size, low=1)

    @property
    def is_score(self) -> bool:
        """False: a perplexity is at least 1 and has no upper bound."""
        return False

    def fingerprint(self) -> str:
        """Return the fingerprint of the data."""
        return source_of_rows("data", self.data).fingerprint()

    def used_files(self) -> dict[str, UsedFiles]:
        """Return the files that hold the texts."""
        return {"data": source_of_rows("data", self.data).used_files()}

    def check(self, reader: Reader) -> None:
        """Refuse data without a text, texts longer than the model's context, and tokens without an embedding."""
        ids = [row for _, row in self._texts(reader)]
        check_tokens("a token of the texts", chain.from_iterable(ids), reader.num_embeddings)
        longest = max(map(len, ids))
        if longest < 2:
            raise UserError(f"data must hold a text of at least 2 tokens, got {self.data['path']!r}")
        if reader.context is not None and longest > reader.context:
            raise UserError(f"max_length must be at most {reader.context}, the model's context, got {self.max_length}")

    def evaluate(self, inputs: EvaluationInputs) -> Score:
        """Return the perplexity of all texts and of each; losses that a killed attempt stored are used."""
        from gmt.evaluation.padding import batches, sees_padding  # imports torch, which planning must not

        texts, ids = zip(*self._texts(inputs), strict=True)
        long = [i for i, row in enumerate(ids) if len(row) > 1]
        stored = StoredValues(inputs.scratch / "losses.jsonl")
        losses = stored.read()
        remaining = [i for i in long if i not in losses]
        pad = inputs.tokenizer.pad_token_id
        padded = not (remaining and sees_padding(inputs.model, ids[remaining[0]], pad, left=False))
        for batch in batches(ids, remaining, self.batch_size, padded=padded):
            new_losses = dict(zip(batch, _losses(inputs, [ids[i] for i in batch]), strict=True))
            stored.add(new_losses)
            losses |= new_losses
            inputs.on_progress(len(losses), len(long))
        rows = [{"prompt": texts[i], "answer": "", "score": math.exp(losses[i] / (len(ids[i]) - 1))} for i in long]
        total, count = sum(losses[i] for i in long), sum(len(ids[i]) - 1 for i in long)
        return Score(metric="perplexity", value=math.exp(total / count), answers=rows)

    def _texts(self, reader: Reader) -> list[tuple[str, list[int]]]:
        texts = texts_of("data", self.data, self.column)
        return [(text, reader.tokenizer(text)["input_ids"][: self.max_length]) for text in texts]


def _losses(inputs: EvaluationInputs, ids: Sequence[Sequence[int]]) -> list[float]:
    """Return the negative log-likelihood of each text's tokens after its first, in nats, summed in float32."""
    import torch
    from torch.nn.functional import cross_entropy

    from gmt.evaluation.padding import tensors

    tokens, attention = tensors(ids, inputs.tokenizer.pad_token_id, inputs.model.device, left=False)
    with torch.inference_mode():
        logits = inputs.model(input_ids=tokens, attention_mask=attention).logits[:, :-1].float()
        token_losses = cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return [float(loss) for loss in (token_losses * attention[:, 1:]).sum(dim=1)]
