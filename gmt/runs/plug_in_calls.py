"""Calls models and tasks before a run starts, and turns the errors of their classes into sentences for the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.models.protocol import Model
from gmt.plug_ins import faults_of
from gmt.tasks.protocol import Benchmark, Reader, Suite, Task, TrainExample
from gmt.tasks.returned_values import check_examples, faults_of_suite

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_PARTS = {"target", "source"}


def config_and_tokenizer(model: Model) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return a model's config and its tokenizer.

    Raises:
        UserError: its class raises an error.
    """
    with faults_of("model", model, "can't load its config or its tokenizer"):
        return model.load_config(), model.load_tokenizer()


def train_examples(task: Task) -> Sequence[TrainExample]:
    """Return a task's training examples.

    Raises:
        UserError: its class raises an error, or returns wrong examples.
    """
    with faults_of("task", task, "can't make its training examples"):
        examples = list(task.train_examples())
    check_examples(task, examples)
    return examples


def suites_of(task: Task) -> Mapping[str, Mapping[str, Suite | Benchmark]]:
    """Return a task's suites and benchmarks, by part and name.

    Raises:
        UserError: its class raises an error, or returns something other than suites and benchmarks, or wrong suites.
    """
    with faults_of("task", task, "can't make its suites"):
        suites = task.suites()
        has_parts = isinstance(suites, Mapping) and set(suites) == _PARTS
        if has_parts and all(
            isinstance(named, Mapping) and named and all(isinstance(item, Suite | Benchmark) for item in named.values())
            for named in suites.values()
        ):
            _check_suites(suites)
            return suites
    raise UserError(
        f"task: class {type(task).__module__}.{type(task).__qualname__} must return suites or benchmarks by name, "
        f"under 'target' and under 'source', from suites() (see gmt.tasks.protocol), got {suites!r:.200}"
    )


def check_benchmark(benchmark: Benchmark, reader: Reader) -> None:
    """Call a benchmark's `check`.

    Raises:
        UserError: the benchmark can't work, or its class raises an error.
    """
    with faults_of("benchmark", benchmark, "can't check its data"):
        benchmark.check(reader)


def _check_suites(suites: Mapping[str, Mapping[str, Suite | Benchmark]]) -> None:
    faults = [
        f"task.{part}.{name}: {fault}"
        for part, named in suites.items()
        for name, suite in named.items()
        if isinstance(suite, Suite)
        for fault in faults_of_suite(suite)
    ]
    if faults:
        raise UserError(*faults)
