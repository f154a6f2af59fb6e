"""What a task is to the rest of the program. Imports no library, so that planning can read it for free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training example: a prompt and the completion that is to be learnt, both as text."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Questions with a scorer.

    Args:
        name: the word for it in tables and MLflow.
        prompts: what the model is given.
        score: scores an answer: `score(index, text)` with the index into `prompts`, in [0, 1]; 1 is an exact match.
    """

    name: str
    prompts: Sequence[str]
    score: Callable[[int, str], float]


class Task(Protocol):
    """The settings of a task: a frozen dataclass that checks its values in `__post_init__`."""

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """How many tokens an answer may take in evaluation."""
        ...

    def fingerprint(self) -> str:
        """Names the data beyond what the settings say, e.g. a file's hash; enters the run id."""
        ...

    def train_examples(self) -> Sequence[Example]:
        """The training examples, none of which asks a question of a target suite."""
        ...

    def suites(self) -> Mapping[str, Sequence[Suite]]:
        """The suites under `target` (what is learnt) and `source` (what the base could do before)."""
        ...
