"""Everything of a run that can be found wrong before it starts: its tokenizer, examples and suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.models.protocol import Model
from gmt.runs.build import Run
from gmt.tasks.chat import set_template
from gmt.tasks.protocol import Benchmark, Suite, Task
from gmt.tasks.tokens import tokenize
from gmt.training.settings import TrainSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from gmt.runs.evaluate import Evaluated


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training and evaluation need besides the model."""

    tokenizer: PreTrainedTokenizerBase
    examples: Dataset
    """Rows of tokens; a row may hold several examples where train.packing is on."""
    num_examples: int
    num_dropped: int
    """Examples that are longer than train.max_length."""
    num_left_over: int
    """Preferences that fill no optimizer step."""
    suites: Mapping[str, Mapping[str, Suite | Benchmark]]
    of_base: list[Evaluated] = field(default_factory=list)
    """What the base came to, once a run of this process has asked: it is the same for every run.

    The record's folder of the base has it for other processes; this spares the model that asking there needs.
    """


def prepare(run: Run) -> Prepared:
    """Makes or loads examples and suites; runs of one process that share them make them once.

    Raises:
        UserError: there is no training example, or none that fits train.max_length.
    """
    return _prepare(_Key(run.science["fingerprints"], run.model, run.task, run.train))


class _Key:
    """Model, task and what of training decides the examples, by value: settings with mappings have no hash."""

    def __init__(self, fingerprints: object, model: Model, task: Task, train: TrainSettings):
        self.model, self.task, self.train = model, task, train
        shape = (train.max_length, train.packing, _per_step(train) if train.paradigm == "dpo" else None)
        self._value = repr((fingerprints, model, task, shape))

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._value == other._value


@lru_cache(maxsize=4)
def _prepare(key: _Key) -> Prepared:
    from datasets import Dataset

    tokenizer = key.model.load_tokenizer()
    set_template(tokenizer, key.task.chat_template)
    training = tokenize(tokenizer, key.task.train_examples(), max_length=key.train.max_length)
    used = list(training.examples)
    if key.train.paradigm == "dpo":
        used = used[: _in_whole_steps(len(used), key.train)]
    rows = Dataset.from_list(used)
    if key.train.packing:
        from gmt.training.packing import packed  # TRL takes seconds, and a sweep's driver comes here too

        rows = packed(rows, key.train.max_length)
    return Prepared(
        tokenizer=tokenizer,
        examples=rows,
        num_examples=len(used),
        num_dropped=training.num_dropped,
        num_left_over=len(training.examples) - len(used),
        suites=key.task.suites(),
    )


def _in_whole_steps(number: int, train: TrainSettings) -> int:
    """How many fill optimizer steps: DPO's loss is a mean over examples, so a step of fewer would weigh them more."""
    whole = number - number % _per_step(train)
    if not whole:
        raise UserError(
            f"train.micro_batch_size * train.accumulation_steps must be at most {number}, the number of "
            f"preferences, got {_per_step(train)}"
        )
    return whole


def _per_step(train: TrainSettings) -> int:
    return train.micro_batch_size * train.accumulation_steps
