"""Tasks from reasoning-gym's generated families: questions from a seed, with answers and a scorer each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.tasks.protocol import Example, Suite

_SUITE_SEED_OFFSET = 1_000_003  # suites are drawn from another seed than training examples
_KEYS = {"family", "settings", "num_examples"}


@dataclass(frozen=True, kw_only=True)
class ReasoningGymTask:
    """Trains on a mixture of families and asks questions of others.

    Args:
        name: the word for it in tables.
        data_seed: seed of every generated question; the same data for every run of a study. reasoning-gym draws
            question i from seed + i: two seeds give data of their own only if they lie num_examples apart.
        train: name -> {family, settings, num_examples}: what is trained on.
        target: likewise: what is to be learnt.
        source: likewise: what the base could do before; forgetting is measured in it.
        max_new_tokens: how many tokens an answer may take.

    Raises:
        UserError: an unknown family or key, no training example, no suite.
    """

    name: str
    data_seed: int
    train: Mapping[str, Mapping[str, Any]]
    target: Mapping[str, Mapping[str, Any]]
    source: Mapping[str, Mapping[str, Any]]
    max_new_tokens: int

    def __post_init__(self) -> None:
        settings.text("task.name", self.name)
        settings.integer("task.data_seed", self.data_seed, low=0)
        settings.integer("task.max_new_tokens", self.max_new_tokens, low=1)
        for part in ("train", "target", "source"):
            mixture = getattr(self, part)
            if not mixture:
                raise UserError(f"task.{part} must name at least one family, got none")
            for name, entry in mixture.items():
                _check_entry(f"task.{part}.{name}", entry)

    def fingerprint(self) -> str:
        """The generator's version: together with the settings it decides every question."""
        return f"reasoning-gym=={_version()}"

    def train_examples(self) -> list[Example]:
        """The training examples; a question that a target suite asks is left out."""
        asked = {prompt for suite in self.suites()["target"] for prompt in suite.prompts}
        examples = [
            Example(prompt=_prompt(entry["question"]), completion=str(entry["answer"]))
            for mixed in self.train.values()
            for entry in _generate(mixed, self.data_seed)
        ]
        return [example for example in examples if example.prompt not in asked]

    def suites(self) -> dict[str, list[Suite]]:
        """The target and the source suites."""
        return {
            part: [_suite(name, entry, self.data_seed + _SUITE_SEED_OFFSET) for name, entry in mixture.items()]
            for part, mixture in (("target", self.target), ("source", self.source))
        }


@lru_cache(maxsize=1)
def _version() -> str:
    """Cached: a plan of 10,000 runs asks once for each."""
    return metadata.version("reasoning-gym")


def _prompt(question: str) -> str:
    return question.strip() + "\n"


def _suite(name: str, entry: Mapping[str, Any], seed: int) -> Suite:
    dataset = _dataset(entry, seed)
    entries: Sequence[dict[str, Any]] = [dataset[i] for i in range(len(dataset))]

    def score(index: int, text: str) -> float:
        return float(dataset.score_answer(answer=text, entry=entries[index]))

    return Suite(name=name, prompts=[_prompt(e["question"]) for e in entries], score=score)


def _generate(entry: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    dataset = _dataset(entry, seed)
    for i in range(len(dataset)):
        yield dataset[i]


def _dataset(entry: Mapping[str, Any], seed: int) -> Any:
    """The generated dataset; importing reasoning-gym takes seconds, so that planning never comes here."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    family = entry["family"]
    if family not in DATASETS:
        raise UserError(f"task: reasoning-gym has no family {family!r}; {choices(str(family), DATASETS)}")
    try:
        return reasoning_gym.create_dataset(family, seed=seed, size=entry["num_examples"], **entry["settings"])
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"task: reasoning-gym's family {family} refuses {dict(entry['settings'])}: {error}") from error


def _check_entry(setting: str, entry: Any) -> None:
    if not isinstance(entry, Mapping) or set(entry) != _KEYS:
        got = sorted(entry) if isinstance(entry, Mapping) else entry
        raise UserError(f"{setting} must hold exactly {', '.join(sorted(_KEYS))}, got {got}")
    settings.integer(f"{setting}.num_examples", entry["num_examples"], low=1)
