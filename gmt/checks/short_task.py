"""A task made short, so that a law is tried in a second. Imports no library, so that planning can read it for free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from gmt.errors import UserError
from gmt.tasks.protocol import Benchmark, Conversation, Example, Preference, Suite, Task, TrainExample
from gmt.used_files import KnowsItsFiles, UsedFiles


@dataclass(frozen=True, kw_only=True)
class ShortTask:
    """The first examples and questions of another task.

    Args:
        task: the other.
        num_examples: at most.
        num_questions: at most, of each suite; benchmarks are asked whole.
        as_preferences: whether examples become preferences, each over the answer of the next.
    """

    task: Task
    num_examples: int
    num_questions: int
    as_preferences: bool

    @property
    def name(self) -> str:
        """As the other's."""
        return self.task.name

    @property
    def chat_template(self) -> str | None:
        """As the other's."""
        return self.task.chat_template

    @property
    def is_preference(self) -> bool:
        """Whether its examples are preferences."""
        return self.as_preferences or self.task.is_preference

    def fingerprint(self) -> str:
        """As the other's."""
        return self.task.fingerprint()

    def used_files(self) -> Mapping[str, UsedFiles]:
        """As the other's."""
        return self.task.used_files() if isinstance(self.task, KnowsItsFiles) else {}

    def train_examples(self) -> Sequence[TrainExample]:
        """The first ones."""
        examples = list(islice(self.task.train_examples(), self.num_examples))
        if not self.as_preferences or self.task.is_preference:
            return examples
        return [_preferred(a, b) for a, b in zip(examples, [*examples[1:], examples[0]], strict=True)]

    def suites(self) -> Mapping[str, Mapping[str, Suite | Benchmark]]:
        """The first questions of each suite."""
        return {
            part: {name: self._short(each) for name, each in suites.items()}
            for part, suites in self.task.suites().items()
        }

    def _short(self, suite: Suite | Benchmark) -> Suite | Benchmark:
        return replace(suite, prompts=suite.prompts[: self.num_questions]) if isinstance(suite, Suite) else suite


def _preferred(example: TrainExample, other: TrainExample) -> Preference:
    prompt: str | Sequence[Mapping[str, str]]
    if isinstance(example, Example) and isinstance(other, Example):
        prompt, chosen, rejected = example.prompt, example.completion, other.completion
    elif isinstance(example, Conversation) and isinstance(other, Conversation):
        prompt, chosen = example.messages[:-1], example.messages[-1]["content"]
        rejected = other.messages[-1]["content"]
    else:
        raise UserError(f"task.train_examples() must give examples of one kind, got {example!r} beside {other!r}")
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, origin=example.origin)
