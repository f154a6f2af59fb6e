"""A shortened task, so that testing a law takes a second. Imports no library, so that planning stays quick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from gmt.errors import UserError
from gmt.tasks.protocol import Benchmark, Conversation, Example, Preference, Suite, Task, TrainExample
from gmt.used_files import KnowsItsFiles, UsedFiles


@dataclass(frozen=True, kw_only=True)
class ShortTask:
    """The first examples and questions of another task.

    Args:
        task: the full task.
        num_examples: the most examples to take.
        num_questions: the most questions to take of each suite; benchmarks run in full.
        as_preferences: whether each example becomes a preference for its answer over the answer of the next example.
    """

    task: Task
    num_examples: int
    num_questions: int
    as_preferences: bool

    @property
    def name(self) -> str:
        """The name of the full task."""
        return self.task.name

    @property
    def chat_template(self) -> str | None:
        """The chat template of the full task."""
        return self.task.chat_template

    @property
    def is_preference(self) -> bool:
        """Whether its examples are preferences."""
        return self.as_preferences or self.task.is_preference

    def fingerprint(self) -> str:
        """Return the fingerprint of the full task."""
        return self.task.fingerprint()

    def used_files(self) -> Mapping[str, UsedFiles]:
        """Return the files of the full task."""
        return self.task.used_files() if isinstance(self.task, KnowsItsFiles) else {}

    def train_examples(self) -> Sequence[TrainExample]:
        """Return the first examples.

        Raises:
            UserError: two neighbouring examples are of different types, so that they give no preference.
        """
        examples = list(islice(self.task.train_examples(), self.num_examples))
        if not self.as_preferences or self.task.is_preference:
            return examples
        return [_preferred(a, b) for a, b in zip(examples, [*examples[1:], examples[0]], strict=True)]

    def suites(self) -> Mapping[str, Mapping[str, Suite | Benchmark]]:
        """Return the suites with their first questions."""
        return {
            part: {name: self._short(suite) for name, suite in suites.items()}
            for part, suites in self.task.suites().items()
        }

    def _short(self, suite: Suite | Benchmark) -> Suite | Benchmark:
        return suite.first(self.num_questions) if isinstance(suite, Suite) else suite


def _preferred(example: TrainExample, other: TrainExample) -> Preference:
    prompt: str | Sequence[Mapping[str, str]]
    if isinstance(example, Example) and isinstance(other, Example):
        prompt, chosen, rejected = example.prompt, example.completion, other.completion
    elif isinstance(example, Conversation) and isinstance(other, Conversation):
        prompt, chosen = example.messages[:-1], example.messages[-1]["content"]
        rejected = other.messages[-1]["content"]
    else:
        raise UserError(f"task.train_examples() must give examples of one type, got {example!r} beside {other!r}")
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, origin=example.origin)
