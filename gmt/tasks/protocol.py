"""The protocol of a task, and the types that its methods return. Imports no library, so that planning stays quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = Mapping[str, str]
"""One turn of a conversation: `role` (system, user or assistant) and `content`."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training example: a prompt and the completion to be learnt, both as text.

    `origin` names the example's file and row, for errors.
    """

    prompt: str
    completion: str
    origin: str = field(default="", compare=False, repr=False)

    def as_turns(self) -> Conversation:
        """Return the prompt as a user's turn and the completion as the answer to it."""
        messages = [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.completion}]
        return Conversation(messages=messages, origin=self.origin)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One training example as turns; every turn of the assistant is learnt."""

    messages: Sequence[Message]
    origin: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One preference: a prompt, as text or as turns, and two answers to it, of which one is preferred."""

    prompt: str | Sequence[Message]
    chosen: str
    rejected: str
    origin: str = field(default="", compare=False, repr=False)


TrainExample = Example | Conversation | Preference


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Questions with a scorer.

    Args:
        name: its name in tables and MLflow.
        prompts: the prompts that the model gets.
        score: scores an answer in [0, 1], as `score(index, text)` with the index into `prompts`; 1 is an exact match.
        max_new_tokens: the most tokens of an answer.
        further_prompts: returns prompts of more questions of the same type, some of which may be among `prompts`; None
            if there are none.
        answers: the right answer to each prompt, in the form of a training example's completion; None if unknown.
        expected: the text that `score` looks for in each answer; None if `answers` gives it, or if it is unknown.
    """

    name: str
    prompts: Sequence[str]
    score: Callable[[int, str], float]
    max_new_tokens: int
    further_prompts: Callable[[], Sequence[str]] | None = None
    answers: Sequence[str] | None = None
    expected: Sequence[str] | None = None

    def first(self, number: int) -> Suite:
        """Return the suite with only its first `number` questions."""
        answers, expected = (None if texts is None else texts[:number] for texts in (self.answers, self.expected))
        return replace(self, prompts=self.prompts[:number], answers=answers, expected=expected)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How a model reads prompts, known before its weights are loaded.

    Args:
        tokenizer: the tokenizer; it has a pad token, and a chat template if the task asks for one.
        context: the context length in tokens; None without a limit.
        num_embeddings: the number of tokens that the model has embeddings for; token ids must lie below it.
        is_chat: whether a prompt becomes a user's turn of the chat template.
        suites: for a benchmark, the suites of the same part, by name.
    """

    tokenizer: PreTrainedTokenizerBase
    context: int | None
    num_embeddings: int
    is_chat: bool
    suites: Mapping[str, Suite] = field(default_factory=dict)

    def for_part(self, evaluations: Mapping[str, Suite | Benchmark]) -> Reader:
        """Return the reader for the benchmarks among a part's evaluations."""
        return replace(self, suites={name: suite for name, suite in evaluations.items() if isinstance(suite, Suite)})


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs(Reader):
    """The inputs of an evaluation.

    Args:
        model: the model on any device, in eval mode; it must not be changed.
        cpus: the number of the run's cores.
        scratch: a folder for this evaluation alone, to store finished answers, which survive a kill.
        on_progress: to be called often, with the numbers of answers so far and in all; it raises if the run must end.
        base: returns the run's model as it was before any training, on the device of `model`, in eval mode.
    """

    model: PreTrainedModel
    cpus: int
    scratch: Path
    on_progress: Callable[[int, int], None]
    base: Callable[[], PreTrainedModel] | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of a suite or a benchmark.

    Args:
        metric: the metric's name, e.g. `exact_match`.
        value: a score in [0, 1], where more is better; or a measure where less is better: `perplexity`, at least 1;
            `nll` and `kl`, in nats a token.
        answers: one row of plain values for each question: prompt, answer, score, and anything else worth storing.
    """

    metric: str
    value: float
    answers: Sequence[Mapping[str, Any]]


@runtime_checkable
class Benchmark(Protocol):
    """An evaluation with its own prompts and score: a frozen dataclass that checks its values in `__post_init__`."""

    @property
    def is_score(self) -> bool:
        """Whether its value lies in [0, 1] and more is better, so that it enters the mean over suites."""
        ...

    def fingerprint(self) -> str:
        """Return a text that identifies the questions beyond the settings, e.g. a file's hash; it enters the run id."""
        ...

    def check(self, reader: Reader) -> None:
        """Raise UserError, before any training, if the evaluation can't work: data that can't be loaded, a prompt that
        does not fit."""
        ...

    def evaluate(self, inputs: EvaluationInputs) -> Score:
        """Return the score of a model; `check` has been called before."""
        ...


class Task(Protocol):
    """The settings of a task: a frozen dataclass that checks its values in `__post_init__`."""

    @property
    def name(self) -> str:
        """Its name in configs, tables and MLflow."""
        ...

    @property
    def chat_template(self) -> str | None:
        """None for plain prompts; `tokenizer` for the tokenizer's own template; or a template file."""
        ...

    @property
    def is_preference(self) -> bool:
        """Whether its training examples are preferences."""
        ...

    def fingerprint(self) -> str:
        """Return a text that identifies the data beyond the settings, e.g. a file's hash; it enters the run id."""
        ...

    def train_examples(self) -> Sequence[TrainExample]:
        """Return the training examples; none of them may ask a question of a target suite."""
        ...

    def suites(self) -> Mapping[str, Mapping[str, Suite | Benchmark]]:
        """Return the evaluations by name, under `target` (the trained skill) and `source` (skills of the base)."""
        ...
