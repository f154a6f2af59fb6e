"""Everything of a run that can be found wrong before it starts: its tokenizer, examples and what it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gmt.credentials import refuse_secrets
from gmt.errors import UserError, together, within
from gmt.evaluation.context import check_suite, check_tokens, context_alone, context_of
from gmt.methods.protocol import Method, UsesContext
from gmt.methods.source_prompts import ReadsSource
from gmt.plug_ins import faults_of
from gmt.runs.build import Run
from gmt.runs.calibration import check_calibration
from gmt.runs.evaluated import Evaluated
from gmt.runs.plug_in_calls import config_and_tokenizer, suites_of, train_examples
from gmt.selections.protocol import Selection
from gmt.tasks.chat import set_template
from gmt.tasks.evaluations import check_names
from gmt.tasks.protocol import Benchmark, Reader, Suite, Task
from gmt.tasks.tokens import TokenizedExamples, Tokens, tokenize
from gmt.training.optimizers import check_installed
from gmt.training.settings import TrainSettings
from gmt.used_files import KnowsItsFiles, UsedFiles

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training and evaluation need besides the model."""

    reader: Reader
    """Of the model, its tokenizer among it."""
    examples: Dataset
    """Rows of tokens; a row may hold several examples where train.packing is on.

    Of a run with a selection: every example that fits, a row each; once the selection is made (`only`), those chosen.
    """
    num_examples: int
    num_dropped: int
    """Examples that are longer than train.max_length."""
    num_left_over: int
    """Preferences that fill no optimizer step."""
    suites: Mapping[str, Mapping[str, Suite | Benchmark]]
    used_files: Mapping[str, UsedFiles]
    """Of the task, as they were read."""
    chosen: Sequence[int] | None = None
    """Of a selection, once it is made: the indices of the chosen examples among those that fit, ascending."""
    num_not_selected: int | None = None
    """Likewise: the number of examples that fit and were not chosen."""
    nums_to_choose: dict[str, int | None] = field(default_factory=dict)
    """The number of examples that a selection will choose, by the selection."""
    of_base: dict[Path, Evaluated] = field(default_factory=dict)
    """What the base came to, once a run of this process has asked, by the folder where it is kept.

    The record's folder of the base has it for other processes; this spares the model that asking there needs.
    """

    def for_method(self, method: Method) -> Prepared:
        """Return the same for a model with a method's parts in it, which may take tokens of its context."""
        return replace(self, reader=_with_less_context(self.reader, _num_taken(method)))


def prepare(run: Run) -> Prepared:
    """Makes or loads examples and suites; runs of one process that share them make them once.

    Raises:
        UserError: the model is no causal LM; no training example fits; the selection chooses fewer examples than an
            optimizer step takes; an evaluation can't be asked; the settings of model and task, which a run id covers so
            that they can't be masked, hold a secret; the method reads source prompts and the task has none that
            the run is not evaluated on; or the optimizer's package is not installed.
    """
    check_installed(run.train.optimizer)
    prepared = _prepare(_Key(run))
    if isinstance(run.method, ReadsSource) and run.method.reads_source:
        check_calibration(run.method.name, run.task.name, prepared.suites, prepared.reader)
    if run.selection is not None:
        _check_selection(run.selection, prepared, run.train)
    return prepared


def only(prepared: Prepared, indices: Sequence[int], train: TrainSettings) -> Prepared:
    """Return a run with its chosen examples alone, in rows as its training goes over them.

    Args:
        prepared: the run with every example that fits.
        indices: the indices of the chosen examples, ascending.
        train: the run's train group.
    """
    rows, num_left_over = _rows(prepared.examples.select(indices), train)
    return replace(
        prepared,
        examples=rows,
        num_examples=len(indices) - num_left_over,
        num_left_over=num_left_over,
        chosen=indices,
        num_not_selected=len(prepared.examples) - len(indices),
    )


def _check_selection(selection: Selection, prepared: Prepared, train: TrainSettings) -> None:
    key, num_examples = repr(selection), len(prepared.examples)
    if key not in prepared.nums_to_choose:  # the selection may read every example, and a sweep prepares each run
        with faults_of("selection", selection, "can't tell how many examples it will choose"):
            prepared.nums_to_choose[key] = selection.number(cast("Sequence[Tokens]", prepared.examples))
    if (number := prepared.nums_to_choose[key]) is not None:
        check_number(number, num_examples, train)


def check_number(number: int, num_examples: int, train: TrainSettings) -> None:
    """Refuse a selection that chooses too few examples.

    Args:
        number: the number of chosen examples.
        num_examples: the number of examples that fit.
        train: the run's train group.

    Raises:
        UserError: an optimizer step takes more examples than were chosen.
    """
    if number < _per_step(train):
        raise UserError(
            f"selection must leave at least {_per_step(train)} examples, which an optimizer step takes "
            f"(train.micro_batch_size * train.accumulation_steps), got {number} of {num_examples}"
        )


class _Key:
    """Model, task and what of training decides the examples, by value: settings with mappings have no hash."""

    def __init__(self, run: Run):
        self.model, self.task, self.train = run.model, run.task, run.train
        self.num_taken = _num_taken(run.method)
        self.has_selection = run.selection is not None  # then `only` makes the rows, of the chosen examples
        per_step = _per_step(run.train) if run.train.paradigm == "dpo" else None
        rows = (False, None) if self.has_selection else (run.train.packing, per_step)
        shape = (run.train.max_length, _is_alone(run.train), *rows, self.num_taken)
        self.text = repr((run.science["fingerprints"], run.model, run.task, shape))

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.text == other.text


@lru_cache(maxsize=4)
def _prepare(key: _Key) -> Prepared:
    from datasets import Dataset

    refuse_secrets("the config", key.text, "the hub's token belongs into HF_TOKEN", is_data=True)
    config, tokenizer = config_and_tokenizer(key.model)
    set_template(tokenizer, key.task.chat_template)
    reader = Reader(
        tokenizer=tokenizer,
        context=context_of(config),
        num_embeddings=config.get_text_config().vocab_size,
        is_chat=key.task.chat_template is not None,
    )
    shorter = _with_less_context(reader, key.num_taken)
    alone = _less(context_alone(config), key.num_taken)
    training, suites = together(lambda: _training(key, shorter, alone), lambda: _suites(key.task, shorter))
    examples = Dataset.from_list(list(training.examples))
    rows, num_left_over = (examples, 0) if key.has_selection else _rows(examples, key.train)
    return Prepared(
        reader=reader,
        examples=rows,
        num_examples=len(examples) - num_left_over,
        num_dropped=training.num_dropped,
        num_left_over=num_left_over,
        suites=suites,
        used_files=key.task.used_files() if isinstance(key.task, KnowsItsFiles) else {},
    )


def _rows(examples: Dataset, train: TrainSettings) -> tuple[Dataset, int]:
    """Return the rows that a training goes over, and the number of preferences that fill no optimizer step."""
    if train.paradigm == "dpo":
        whole = _in_whole_steps(len(examples), train)
        return examples.select(range(whole)), len(examples) - whole
    if train.packing:
        from gmt.training.packing import packed  # TRL takes seconds, and a sweep's driver comes here too

        return packed(examples, train.max_length), 0
    return examples, 0


def _training(key: _Key, reader: Reader, alone: int | None) -> TokenizedExamples:
    """The training examples, once they are checked; `alone` is the context of an example without others beside it."""
    training = tokenize(reader.tokenizer, train_examples(key.task), max_length=key.train.max_length)
    context = alone if _is_alone(key.train) else reader.context
    if context is not None and training.longest > context:
        why = f"the context of model {key.model.name}"
        if key.num_taken:
            why += f" less the {key.num_taken} tokens that the method puts before each text"
        if context != alone:
            why = (
                f"the original context of model {key.model.name}, since with LongRoPE a longer example changes the "
                f"positions of the others in its batch (train.paradigm=sft with train.micro_batch_size=1 and without "
                f"packing takes up to {alone})"
            )
        raise UserError(
            f"train.max_length must be at most {context}, {why}, got {key.train.max_length}: an example has "
            f"{training.longest} tokens"
        )
    _check_vocabulary(reader, training.examples)
    return training


def _check_vocabulary(reader: Reader, examples: Sequence[Tokens]) -> None:
    taught = (max(ids, default=0) for each in examples for name, ids in each.items() if name != "labels")  # type: ignore[call-overload]
    tokens = {"an example's token": taught, "its pad token": [reader.tokenizer.pad_token_id]}
    for what, ids in {**tokens, "its end-of-sequence token": [reader.tokenizer.eos_token_id]}.items():
        check_tokens(what, ids, reader.num_embeddings)


def _suites(task: Task, reader: Reader) -> Mapping[str, Mapping[str, Suite | Benchmark]]:
    """What is evaluated, once it is checked."""
    suites = suites_of(task)
    faults: list[str] = []
    for part, named in suites.items():
        check_names(f"task.{part}", named)  # a task plug-in's may be its own
        of_part = reader.for_part(named)
        for name, each in named.items():
            try:
                with within(f"task.{part}.{name}"):
                    check_suite(each, reader) if isinstance(each, Suite) else each.check(of_part)
            except UserError as error:
                faults += error.sentences
    if faults:
        raise UserError(*faults)
    return suites


def _in_whole_steps(number: int, train: TrainSettings) -> int:
    """How many fill optimizer steps: DPO's loss is a mean over examples, so a step of fewer would weigh them more."""
    whole = number - number % _per_step(train)
    if not whole:
        raise UserError(
            f"train.micro_batch_size * train.accumulation_steps must be at most {number}, the number of "
            f"preferences, got {_per_step(train)}"
        )
    return whole


def _num_taken(method: Method) -> int:
    return method.num_tokens if isinstance(method, UsesContext) else 0


def _less(context: int | None, num_taken: int) -> int | None:
    return None if context is None else context - num_taken


def _with_less_context(reader: Reader, num_taken: int) -> Reader:
    """Return a model's reader for a model of whose context a method's parts take `num_taken` tokens."""
    return replace(reader, context=_less(reader.context, num_taken))


def _is_alone(train: TrainSettings) -> bool:
    """Whether each example has a batch of its own."""
    return train.paradigm == "sft" and train.micro_batch_size == 1 and not train.packing


def _per_step(train: TrainSettings) -> int:
    return train.micro_batch_size * train.accumulation_steps
