"""Measures the loss of the right answers to a task's questions, and the divergence from the base at them.

Exact match does not show most changes of a model, since few of them turn a wrong answer into a right one. Here the
model reads the right answers and generates nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from gmt import settings
from gmt.errors import UserError, choices
from gmt.evaluation.context import check_tokens
from gmt.evaluation.stored_values import StoredValues
from gmt.tasks.protocol import EvaluationInputs, Example, Reader, Score, Suite, TrainExample
from gmt.tasks.tokens import IGNORED, TokenExample, tokenize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

MEASURES = ("nll", "kl")


@dataclass(frozen=True, kw_only=True)
class RightAnswers:
    """Measures the model on the right answers of the same part's suites, each behind its question as in training.

    Args:
        measure: `nll`: the negative log-likelihood per token of the answer and its end; `kl`: KL(base || model) of the
            next token at the same places. Both are in nats, means over the tokens of a suite and then over suites.
        suites: names of suites; null for all suites whose right answers are known.
        batch_size: questions in a forward pass.

    Raises:
        UserError: the measure is unknown, or a number is out of its range.
    """

    measure: str
    suites: Sequence[str] | None
    batch_size: int

    def __post_init__(self) -> None:
        settings.one_of("measure", self.measure, MEASURES)
        settings.integer("batch_size", self.batch_size, low=1)
        if self.suites is not None and (not self.suites or isinstance(self.suites, str)):
            raise UserError(f"suites must be null or list names of suites, got {self.suites!r}")

    @property
    def is_score(self) -> bool:
        """False: less is better, and the value has no upper bound."""
        return False

    def fingerprint(self) -> str:
        """Return an empty text, since the suites have fingerprints."""
        return ""

    def check(self, reader: Reader) -> None:
        """Refuse suites that the part does not have, and answers that the model can't read."""
        ids = [row["input_ids"] for rows in self._rows(reader).values() for row in rows]
        check_tokens("a token of a right answer", chain.from_iterable(ids), reader.num_embeddings)
        if reader.context is not None:
            _check_length(max(map(len, ids)), reader.context)

    def evaluate(self, inputs: EvaluationInputs) -> Score:
        """Return the measure of all suites and of each question; values that a killed attempt stored are used."""
        rows = [(suite, row) for suite, rows in self._rows(inputs).items() for row in rows]
        stored = StoredValues(inputs.scratch / "sums.jsonl")
        sums = stored.read()
        for batch, batch_sums in self._measured(inputs, [row for _, row in rows], sums):
            stored.add(new_sums := dict(zip(batch, batch_sums, strict=True)))
            sums |= new_sums
            inputs.on_progress(len(sums), len(rows))
        questions = [pair for name in self._suites(inputs) for pair in _questions(inputs.suites[name])]
        answers: list[dict[str, Any]] = []
        for i, ((suite, row), (prompt, answer)) in enumerate(zip(rows, questions, strict=True)):
            number = _num_labels(row)
            score = sums[i] / number
            answers.append({"prompt": prompt, "answer": answer, "score": score, "of": suite, "num_tokens": number})
        return Score(metric=self.measure, value=_mean_over_suites(answers), answers=answers)

    def _measured(
        self, inputs: EvaluationInputs, rows: Sequence[TokenExample], known: Mapping[int, float]
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Yield the indices of each batch of unknown rows, and the sum over each row's labelled tokens."""
        from gmt.evaluation.padding import batches, sees_padding  # imports torch, which planning must not

        ids, pad = [row["input_ids"] for row in rows], inputs.tokenizer.pad_token_id
        remaining = sorted(set(range(len(ids))) - known.keys(), key=lambda i: len(ids[i]))
        if not remaining:
            return
        assert inputs.base is not None
        sum_of = _losses if self.measure == "nll" else _divergences(inputs.base())
        padded = not sees_padding(inputs.model, ids[remaining[0]], pad, left=False)
        for batch in batches(ids, remaining, self.batch_size, padded=padded):
            yield batch, sum_of(inputs.model, [rows[i] for i in batch], pad)

    def _suites(self, reader: Reader) -> list[str]:
        with_answers = [name for name, suite in reader.suites.items() if suite.answers is not None]
        for name in self.suites or ():
            if name not in with_answers:
                rule = "whose right answers are known" if name in reader.suites else "of the same part"
                raise UserError(f"suites must name suites {rule}, got {name!r}; {choices(str(name), with_answers)}")
        if not (names := list(self.suites or with_answers)):
            raise UserError(
                f"the same part must have a suite with right answers, got {', '.join(reader.suites) or 'none'}"
            )
        return names

    def _rows(self, reader: Reader) -> dict[str, list[TokenExample]]:
        """Return the questions with their right answers as tokens, by suite."""
        return {
            name: cast(
                "list[TokenExample]",
                tokenize(
                    reader.tokenizer,
                    [_example(prompt, answer, reader.is_chat) for prompt, answer in _questions(reader.suites[name])],
                    max_length=sys.maxsize,
                ).examples,
            )
            for name in self._suites(reader)
        }


def _check_length(longest: int, context: int) -> None:
    if longest > context:
        raise UserError(
            f"suites must name suites with shorter right answers: a question with its right answer has {longest} "
            f"tokens, and the model's context has {context}"
        )


def _questions(suite: Suite) -> list[tuple[str, str]]:
    assert suite.answers is not None
    return list(zip(suite.prompts, suite.answers, strict=True))


def _example(prompt: str, answer: str, is_chat: bool) -> TrainExample:
    example = Example(prompt=prompt, completion=answer)
    return example.as_turns() if is_chat else example


def _num_labels(row: TokenExample) -> int:
    return sum(label != IGNORED for label in row["labels"])


def _mean_over_suites(answers: Sequence[Mapping[str, Any]]) -> float:
    sums: dict[str, list[float]] = {}
    for row in answers:
        total = sums.setdefault(row["of"], [0.0, 0.0])
        total[0] += row["score"] * row["num_tokens"]
        total[1] += row["num_tokens"]
    return fmean(total / number for total, number in sums.values())


def _losses(model: PreTrainedModel, rows: Sequence[TokenExample], pad: int) -> list[float]:
    """Return the negative log-likelihood of each row's labelled tokens, in nats, summed in float32."""
    from torch.nn.functional import cross_entropy

    logits, labels = _read(model, rows, pad)
    logits = logits[:, :-1].float().transpose(1, 2)
    losses = cross_entropy(logits, labels[:, 1:], reduction="none", ignore_index=IGNORED)
    return [float(loss) for loss in losses.sum(dim=1)]


def _divergences(base: PreTrainedModel) -> Callable[[PreTrainedModel, Sequence[TokenExample], int], list[float]]:
    """Return the function that sums KL(base || model) over each row's labelled tokens, in nats."""
    from gmt.methods.divergence import divergence

    def sum_of(model: PreTrainedModel, rows: Sequence[TokenExample], pad: int) -> list[float]:
        (base_logits, labels), (logits, _) = _read(base, rows, pad), _read(model, rows, pad)
        is_labelled = labels != IGNORED
        return [
            float(divergence(base_logits[i : i + 1], logits[i : i + 1], is_labelled[i : i + 1])) * _num_labels(row)
            for i, row in enumerate(rows)
        ]

    return sum_of


def _read(model: PreTrainedModel, rows: Sequence[TokenExample], pad: int) -> tuple[Tensor, Tensor]:
    """Return the logits [batch, width, vocabulary] and the labels [batch, width] of rows, padded on the right."""
    import torch

    from gmt.evaluation.padding import tensors

    tokens, attention = tensors([row["input_ids"] for row in rows], pad, model.device, left=False)
    labels, _ = tensors([row["labels"] for row in rows], IGNORED, model.device, left=False)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=tokens, attention_mask=attention).logits
    return logits, labels
