"""Everything of a run that can be found wrong before it starts: its tokenizer, examples and suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from gmt.models.protocol import Model
from gmt.runs.build import Run
from gmt.tasks.protocol import Suite, Task
from gmt.tasks.tokens import TokenizedExamples, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gmt.evaluation.suites import SuiteResult


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training and evaluation need besides the model."""

    tokenizer: PreTrainedTokenizerBase
    training: TokenizedExamples
    suites: Mapping[str, Sequence[Suite]]
    base_answers: dict[str, Sequence[SuiteResult]] = field(default_factory=dict)
    """The base's answers by part, once a run of this process has asked: they are the same for every run."""


def prepare(run: Run) -> Prepared:
    """Makes or loads examples and suites; runs of one process that share them make them once.

    Raises:
        UserError: there is no training example, or none that fits train.max_length.
    """
    return _prepare(_Key(run.science["fingerprints"], run.model, run.task, run.train.max_length))


class _Key:
    """Model and task by value: their settings may hold mappings, which have no hash of their own."""

    def __init__(self, fingerprints: object, model: Model, task: Task, max_length: int):
        self.model, self.task, self.max_length = model, task, max_length
        self._value = repr((fingerprints, model, task, max_length))

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._value == other._value


@lru_cache(maxsize=4)
def _prepare(key: _Key) -> Prepared:
    tokenizer = key.model.load_tokenizer()
    training = tokenize(tokenizer, key.task.train_examples(), max_length=key.max_length)
    return Prepared(tokenizer=tokenizer, training=training, suites=key.task.suites())
