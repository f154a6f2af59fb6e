"""The loss of the right answers to a task's questions, and the divergence from the base there.

Most changes of a model turn no wrong answer into a right one, so that exact match does not show them. Here the model
reads the right answers and generates nothing.
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
from gmt.evaluation.context import check_fits, check_tokens
from gmt.evaluation.kept import Kept
from gmt.tasks.protocol import Asked, Example, Reader, Score, Suite, TrainExample
from gmt.tasks.tokens import IGNORED, TokenExample, tokenize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

MEASURES = ("nll", "kl")


@dataclass(frozen=True, kw_only=True)
class RightAnswers:
    """Reads the right answers of the suites of its part, each behind its question, as a training example has it.

    Args:
        measure: `nll`: the negative log-likelihood of a token of the answer and its end; `kl`: KL(base || model) of the
            next token there. Both in nats, a mean over the tokens of a suite, then over suites.
        suites: names of suites; null for all whose right answers are known.
        batch_size: questions in a forward pass.

    Raises:
        UserError: another measure, or a number out of its range.
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
        """Less is better, and there is no worst."""
        return False

    def fingerprint(self) -> str:
        """Nothing: the suites have fingerprints of their own."""
        return ""

    def check(self, reader: Reader) -> None:
        """Refuses suites that the part does not have, and answers that the model can't read."""
        ids = [row["input_ids"] for rows in self._rows(reader).values() for row in rows]
        check_tokens("a token of a right answer", chain.from_iterable(ids), reader.num_embeddings)
        if reader.context is not None:
            check_fits("the benchmark", max(map(len, ids)), reader.context, "with shorter right answers")

    def evaluate(self, asked: Asked) -> Score:
        """The measure, and that of each question; batches that were read before a kill are read from the scratch."""
        rows = [(suite, row) for suite, rows in self._rows(asked).items() for row in rows]
        kept = Kept(asked.scratch / "sums.jsonl")
        sums = kept.read()
        for batch, found in self._measured(asked, [row for _, row in rows], sums):
            kept.add(known := dict(zip(batch, found, strict=True)))
            sums |= known
            asked.on_progress(len(sums), len(rows))
        questions = [pair for name in self._suites(asked) for pair in _questions(asked.beside[name])]
        answers: list[dict[str, Any]] = []
        for i, ((suite, row), (prompt, answer)) in enumerate(zip(rows, questions, strict=True)):
            number = _num_labels(row)
            score = sums[i] / number
            answers.append({"prompt": prompt, "answer": answer, "score": score, "of": suite, "num_tokens": number})
        return Score(metric=self.measure, value=_mean_over_suites(answers), answers=answers)

    def _measured(
        self, asked: Asked, rows: Sequence[TokenExample], known: Mapping[int, float]
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Measure the rows that are left: the indices of a batch, and the sum over each row's labelled tokens."""
        from gmt.evaluation.padding import batches, sees_padding  # they import torch, which planning does without

        ids, pad = [row["input_ids"] for row in rows], asked.tokenizer.pad_token_id
        left = sorted(set(range(len(ids))) - known.keys(), key=lambda i: len(ids[i]))
        if not left:
            return
        assert asked.base is not None
        sum_of = _losses if self.measure == "nll" else _divergences(asked.base())
        padded = not sees_padding(asked.model, ids[left[0]], pad, left=False)
        for batch in batches(ids, left, self.batch_size, padded=padded):
            yield batch, sum_of(asked.model, [rows[i] for i in batch], pad)

    def _suites(self, reader: Reader) -> list[str]:
        with_answers = [name for name, suite in reader.beside.items() if suite.answers is not None]
        for name in self.suites or ():
            if name not in with_answers:
                rule = "whose right answers are known" if name in reader.beside else "of the same part"
                raise UserError(f"suites must name suites {rule}, got {name!r}; {choices(str(name), with_answers)}")
        if not (names := list(self.suites or with_answers)):
            raise UserError(
                f"the same part must have a suite with right answers, got {', '.join(reader.beside) or 'none'}"
            )
        return names

    def _rows(self, reader: Reader) -> dict[str, list[TokenExample]]:
        """Return the questions with their right answers as tokens, by suite."""
        return {
            name: cast(
                "list[TokenExample]",
                tokenize(
                    reader.tokenizer,
                    [_example(prompt, answer, reader.is_chat) for prompt, answer in _questions(reader.beside[name])],
                    max_length=sys.maxsize,
                ).examples,
            )
            for name in self._suites(reader)
        }


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
    """The negative log-likelihood of each row's labelled tokens, in nats, summed in float32."""
    from torch.nn.functional import cross_entropy

    logits, labels = _read(model, rows, pad)
    each = cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=IGNORED)
    return [float(loss) for loss in each.sum(dim=1)]


def _divergences(base: PreTrainedModel) -> Callable[[PreTrainedModel, Sequence[TokenExample], int], list[float]]:
    """Return the function that sums KL(base || model) over each row's labelled tokens, in nats."""
    from gmt.methods.divergence import divergence

    def sum_of(model: PreTrainedModel, rows: Sequence[TokenExample], pad: int) -> list[float]:
        (of_base, labels), (logits, _) = _read(base, rows, pad), _read(model, rows, pad)
        is_labelled = labels != IGNORED
        return [
            float(divergence(of_base[i : i + 1], logits[i : i + 1], is_labelled[i : i + 1])) * _num_labels(row)
            for i, row in enumerate(rows)
        ]

    return sum_of


def _read(model: PreTrainedModel, rows: Sequence[TokenExample], pad: int) -> tuple[Tensor, Tensor]:
    """Return the logits [batch, width, vocabulary] and the labels [batch, width] of rows that are padded behind."""
    import torch

    from gmt.evaluation.padding import tensors

    tokens, attention = tensors([row["input_ids"] for row in rows], pad, model.device, left=False)
    labels, _ = tensors([row["labels"] for row in rows], IGNORED, model.device, left=False)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=tokens, attention_mask=attention).logits
    return logits, labels
