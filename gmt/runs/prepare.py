"""Loads and checks a run's tokenizer, examples and suites before the run starts. Loads no weights."""

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
from gmt.models.protocol import KnowsItsEnds
from gmt.plug_ins import faults_of
from gmt.runs.build import Run
from gmt.runs.calibration import check_calibration
from gmt.runs.evaluated import Evaluated
from gmt.runs.plug_in_calls import check_benchmark, config_and_tokenizer, suites_of, train_examples
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
    """The inputs of training and evaluation, except the model's weights."""

    reader: Reader
    """The tokenizer, with the limits of the model's input."""
    examples: Dataset
    """Rows of tokens; with train.packing a row may hold several examples.

    For a run with a selection, first every example that fits, one in a row; after `only_chosen`, the chosen examples.
    """
    num_examples: int
    num_dropped: int
    """The number of examples that are longer than train.max_length."""
    num_left_over: int
    """The number of preferences at the end that are left out, since they do not fill an optimizer step."""
    suites: Mapping[str, Mapping[str, Suite | Benchmark]]
    used_files: Mapping[str, UsedFiles]
    """The files of the task, as they were read."""
    chosen: Sequence[int] | None = None
    """The indices of the chosen examples among those that fit, ascending; None before a selection has chosen."""
    num_not_selected: int | None = None
    """The number of examples that fit and were not chosen; None before a selection has chosen."""
    nums_to_choose: dict[str, int | None] = field(default_factory=dict)
    """The number of examples that a selection will choose, by the selection's repr."""
    base_evaluations: dict[Path, Evaluated] = field(default_factory=dict)
    """The evaluations of the base in this process, by the folder that stores them.

    Reading that folder, as other processes do, needs a loaded model; with this cache this process loads none again.
    """

    def for_method(self, method: Method) -> Prepared:
        """Return the same inputs with a context shortened by the tokens that the method's parts take."""
        return replace(self, reader=_with_less_context(self.reader, _num_method_tokens(method)))


def prepare(run: Run) -> Prepared:
    """Return a run's tokenizer, examples and suites; runs of one process that need the same ones share them.

    Raises:
        UserError: the model is not a causal LM; no training example fits; the selection chooses fewer examples than an
            optimizer step takes; an evaluation can't work with the model or lacks data; the settings of model or task
            hold a secret, which can't be masked since the run id covers it; the method reads source prompts, and the
            task has none beyond those that the run is evaluated on; or the optimizer's package is not installed.
    """
    check_installed(run.train.optimizer)
    prepared = _prepare(_Key(run))
    if isinstance(run.method, ReadsSource) and run.method.reads_source:
        check_calibration(run.method.name, run.task.name, prepared.suites, prepared.reader)
    if run.selection is not None:
        _check_selection(run.selection, prepared, run.train)
    return prepared


def only_chosen(prepared: Prepared, indices: Sequence[int], train: TrainSettings) -> Prepared:
    """Return a prepared run with only its chosen examples, in the rows that its training reads.

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
            f"selection must choose at least {_per_step(train)} examples, as many as an optimizer step takes "
            f"(train.micro_batch_size * train.accumulation_steps), got {number} of {num_examples}"
        )


class _Key:
    """The parts of a run that decide its prepared inputs; keys with the same settings are equal, as the cache needs."""

    def __init__(self, run: Run):
        self.model, self.task, self.train = run.model, run.task, run.train
        self.num_method_tokens = _num_method_tokens(run.method)
        self.has_selection = run.selection is not None  # `only_chosen` makes the rows then, after the choice
        per_step = _per_step(run.train) if run.train.paradigm == "dpo" else None
        rows = (False, None) if self.has_selection else (run.train.packing, per_step)
        numbers = (run.train.max_length, _is_alone(run.train), *rows, self.num_method_tokens)
        self.text = repr((run.science["fingerprints"], run.model, run.task, numbers))

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.text == other.text


@lru_cache(maxsize=4)
def _prepare(key: _Key) -> Prepared:
    from datasets import Dataset

    refuse_secrets("the config", key.text, "put the hub's token into HF_TOKEN", is_data=True)
    config, tokenizer = config_and_tokenizer(key.model)
    set_template(tokenizer, key.task.chat_template)
    reader = Reader(
        tokenizer=tokenizer,
        context=context_of(config),
        num_embeddings=config.get_text_config().vocab_size,
        is_chat=key.task.chat_template is not None,
    )
    shorter = _with_less_context(reader, key.num_method_tokens)
    context_of_one = _shortened(context_alone(config), key.num_method_tokens)
    training, suites = together(
        lambda: _training_examples(key, shorter, context_of_one), lambda: _suites(key.task, shorter)
    )
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
    """Return the rows that a training reads, and the number of preferences that fill no whole optimizer step."""
    if train.paradigm == "dpo":
        number = _num_in_whole_steps(len(examples), train)
        return examples.select(range(number)), len(examples) - number
    if train.packing:
        from gmt.training.packing import packed  # importing TRL takes seconds, and a sweep's driver calls this too

        return packed(examples, train.max_length), 0
    return examples, 0


def _training_examples(key: _Key, reader: Reader, context_of_one: int | None) -> TokenizedExamples:
    """Return the tokenized training examples; raise UserError if one does not fit the model.

    Args:
        key: the model, the task and the training settings.
        reader: the reader of the model, with the context for several examples in a batch.
        context_of_one: the context for an example that is alone in its batch.
    """
    tokenized = tokenize(
        reader.tokenizer,
        train_examples(key.task),
        max_length=key.train.max_length,
        model_ends=key.model.ends() if isinstance(key.model, KnowsItsEnds) else (),
    )
    context = context_of_one if _is_alone(key.train) else reader.context
    if context is not None and tokenized.longest > context:
        limit = f"the context of model {key.model.name}"
        if key.num_method_tokens:
            limit += f" less the {key.num_method_tokens} tokens that the method puts before each text"
        if context != context_of_one:
            limit = (
                f"the original context of model {key.model.name}, since with LongRoPE a longer example changes the "
                f"positions of the others in its batch (train.paradigm=sft with train.micro_batch_size=1 and without "
                f"packing takes up to {context_of_one})"
            )
        raise UserError(
            f"train.max_length must be at most {context}, {limit}, got {key.train.max_length}: an example has "
            f"{tokenized.longest} tokens"
        )
    _check_vocabulary(reader, tokenized.examples)
    return tokenized


def _check_vocabulary(reader: Reader, examples: Sequence[Tokens]) -> None:
    largest = (max(ids, default=0) for row in examples for name, ids in row.items() if name != "labels")  # type: ignore[call-overload]
    tokens = {"an example's token": largest, "its pad token": [reader.tokenizer.pad_token_id]}
    for subject, ids in {**tokens, "its end-of-sequence token": [reader.tokenizer.eos_token_id]}.items():
        check_tokens(subject, ids, reader.num_embeddings)


def _suites(task: Task, reader: Reader) -> Mapping[str, Mapping[str, Suite | Benchmark]]:
    """Return the task's suites and benchmarks, checked."""
    suites = suites_of(task)
    faults: list[str] = []
    for part, named in suites.items():
        check_names(f"task.{part}", named)  # a plug-in task may make names that are not in the config
        part_reader = reader.for_part(named)
        for name, evaluation in named.items():
            try:
                with within(f"task.{part}.{name}"):
                    if isinstance(evaluation, Suite):
                        check_suite(evaluation, reader)
                    else:
                        check_benchmark(evaluation, part_reader)
            except UserError as error:
                faults += error.sentences
    if faults:
        raise UserError(*faults)
    return suites


def _num_in_whole_steps(number: int, train: TrainSettings) -> int:
    """Return how many preferences fill whole optimizer steps.

    DPO's loss is a mean over the step's preferences, so each preference in a smaller step would have more weight.
    """
    num_whole = number - number % _per_step(train)
    if not num_whole:
        raise UserError(
            f"train.micro_batch_size * train.accumulation_steps must be at most {number}, the number of "
            f"preferences, got {_per_step(train)}"
        )
    return num_whole


def _num_method_tokens(method: Method) -> int:
    """Return the number of tokens of the context that the method's parts take."""
    return method.num_tokens if isinstance(method, UsesContext) else 0


def _shortened(context: int | None, num_tokens: int) -> int | None:
    return None if context is None else context - num_tokens


def _with_less_context(reader: Reader, num_tokens: int) -> Reader:
    """Return the reader of a model whose context is shorter by `num_tokens`."""
    return replace(reader, context=_shortened(reader.context, num_tokens))


def _is_alone(train: TrainSettings) -> bool:
    """Return whether each example is alone in its batch."""
    return train.paradigm == "sft" and train.micro_batch_size == 1 and not train.packing


def _per_step(train: TrainSettings) -> int:
    return train.micro_batch_size * train.accumulation_steps
