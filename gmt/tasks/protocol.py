"""What a task is to the rest of the program. Imports no library, so that planning can read it for free."""

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
    """One training example: a prompt and the completion that is to be learnt, both as text.

    The origin of an example names file and row, for errors.
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
    """One training example as turns, of which every one of the assistant is to be learnt."""

    messages: Sequence[Message]
    origin: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One example of what is preferred: a prompt, as text or as turns, and two answers to it."""

    prompt: str | Sequence[Message]
    chosen: str
    rejected: str
    origin: str = field(default="", compare=False, repr=False)


TrainExample = Example | Conversation | Preference


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Questions with a scorer.

    Args:
        name: the word for it in tables and MLflow.
        prompts: what the model is given.
        score: scores an answer: `score(index, text)` with the index into `prompts`, in [0, 1]; 1 is an exact match.
        max_new_tokens: how many tokens an answer may take.
        others: draws prompts of more questions of the same kind, some of which may be among `prompts`; None where there
            are no more.
        answers: the right answer to each prompt, as a training example's completion gives it; None where it is unknown.
    """

    name: str
    prompts: Sequence[str]
    score: Callable[[int, str], float]
    max_new_tokens: int
    others: Callable[[], Sequence[str]] | None = None
    answers: Sequence[str] | None = None

    def first(self, number: int) -> Suite:
        """Return the suite with its first questions alone."""
        answers = None if self.answers is None else self.answers[:number]
        return replace(self, prompts=self.prompts[:number], answers=answers)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What is known of a model before its weights are there: how a prompt reaches it, and how much of it.

    Args:
        tokenizer: its pad token pads; it has a chat template if the task asks for one.
        context: the most tokens that the model takes; None where nothing limits them.
        num_embeddings: how many tokens the model knows; the number of a token must lie below.
        is_chat: whether prompts are to be put as a user's turn.
        beside: of a benchmark, the suites of the same part, by name.
    """

    tokenizer: PreTrainedTokenizerBase
    context: int | None
    num_embeddings: int
    is_chat: bool
    beside: Mapping[str, Suite] = field(default_factory=dict)

    def for_part(self, evaluations: Mapping[str, Suite | Benchmark]) -> Reader:
        """Return the reader for the benchmarks among a part's evaluations."""
        return replace(self, beside={name: found for name, found in evaluations.items() if isinstance(found, Suite)})


@dataclass(frozen=True, kw_only=True)
class Asked(Reader):
    """What a benchmark is given to work with.

    Args:
        model: on any device, in eval mode; it may not be changed.
        cpus: how many cores the run has.
        scratch: a folder of the benchmark's own that outlives a killed run: what is kept there need not be asked again.
        on_progress: to be called with the number of answers that are there and the number of all, as often as may be:
            it raises where the run is to end.
        base: makes the run's model as it was before any training, on the device of `model`, in eval mode.
    """

    model: PreTrainedModel
    cpus: int
    scratch: Path
    on_progress: Callable[[int, int], None]
    base: Callable[[], PreTrainedModel] | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """What came out of a suite or a benchmark.

    Args:
        metric: the word for it, e.g. `exact_match`.
        value: in [0, 1], more is better; or less is better: `perplexity`, at least 1; `nll` and `kl`, nats a token.
        answers: one row for each question, of plain values: prompt, answer, score and what else there is to say.
    """

    metric: str
    value: float
    answers: Sequence[Mapping[str, Any]]


@runtime_checkable
class Benchmark(Protocol):
    """An evaluation that asks in its own way: a frozen dataclass that checks its values in `__post_init__`."""

    @property
    def is_score(self) -> bool:
        """Whether its value lies in [0, 1] and more is better, so that a mean over suites may hold it."""
        ...

    def fingerprint(self) -> str:
        """Names what is asked beyond what the settings say, e.g. a file's hash or a version; enters the run id."""
        ...

    def check(self, reader: Reader) -> None:
        """Refuses with a UserError, before anything is trained, what can't be asked: data that can't be had, a prompt
        that does not fit."""
        ...

    def evaluate(self, asked: Asked) -> Score:
        """Asks and scores, once it is checked."""
        ...


class Task(Protocol):
    """The settings of a task: a frozen dataclass that checks its values in `__post_init__`."""

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

    @property
    def chat_template(self) -> str | None:
        """None where prompts are plain; `tokenizer` for the tokenizer's own template, or else a template file."""
        ...

    @property
    def is_preference(self) -> bool:
        """Whether its training examples are preferences."""
        ...

    def fingerprint(self) -> str:
        """Names the data beyond what the settings say, e.g. a file's hash; enters the run id."""
        ...

    def train_examples(self) -> Sequence[TrainExample]:
        """The training examples, none of which asks a question of a target suite."""
        ...

    def suites(self) -> Mapping[str, Mapping[str, Suite | Benchmark]]:
        """What is evaluated, by name, under `target` (what is learnt) and `source` (what the base could do before)."""
        ...
