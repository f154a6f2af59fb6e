"""Draws questions with answers from reasoning-gym's families."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from itertools import islice
from typing import Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.tasks.protocol import Example

GIVEN, BACKWARD = "given", "backward"
ANSWERS = (GIVEN, BACKWARD)
_KEYS = {"family", "settings", "num_examples"}
_OPTIONAL_KEYS = {"answer"}
_MOST_DRAWS = 50  # for each question that is wanted, so that a family with too few is found out
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=1)
def generator_version() -> str:
    """Return reasoning-gym's version. Cached: a plan of 10,000 runs asks once for each."""
    return metadata.version("reasoning-gym")


def prompt_of(question: Mapping[str, Any]) -> str:
    """Return what the model is given."""
    text: str = question["question"]
    return text.strip() + "\n"


def answer_of(question: Mapping[str, Any], answer: str) -> str:
    """Return the right answer, as `answer` wants it written."""
    text = str(question["answer"])
    return text[::-1] if answer == BACKWARD else text


def words_of(prompt: str) -> tuple[str, ...]:
    """Return the words and numbers of a prompt in an order of their own: the same for `1 + 2 + 3` and `3 + 1 + 2`."""
    return tuple(sorted(_WORD.findall(prompt)))


def dataset_of(entry: Mapping[str, Any], seed: int, size: int) -> Any:
    """Return a generated dataset; importing reasoning-gym takes seconds, so that planning never comes here.

    Args:
        entry: family and settings.
        seed: question i is drawn from seed + i.
        size: the number of questions that can be drawn.

    Raises:
        UserError: an unknown family, or settings that it refuses.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    family = entry["family"]
    if family not in DATASETS:
        raise UserError(f"reasoning-gym has no family {family!r}; {choices(str(family), DATASETS)}")
    try:
        return reasoning_gym.create_dataset(family, seed=seed, size=size, **entry["settings"])
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"reasoning-gym's family {family} refuses {dict(entry['settings'])}: {error}") from error


def questions_of(dataset: Any, number: int, *, distinct: bool) -> list[dict[str, Any]]:
    """Return the first questions of a dataset.

    Args:
        dataset: from `dataset_of`, of the size that `size_for` returns.
        number: how many.
        distinct: whether each prompt may come once only.

    Raises:
        UserError: the family has fewer distinct questions.
    """
    drawn = (dataset[i] for i in range(len(dataset)))
    if not distinct:
        return list(islice(drawn, number))
    found: dict[str, dict[str, Any]] = {}
    for question in drawn:
        found.setdefault(prompt_of(question), question)
        if len(found) == number:
            return list(found.values())
    raise UserError(
        f"num_examples must be at most {len(found)}, the distinct questions that were found in {len(dataset)} draws, "
        f"got {number}"
    )


def size_for(number: int, *, distinct: bool) -> int:
    """Return how many questions may be drawn to find so many."""
    return number * _MOST_DRAWS if distinct else number


def examples_of(entry: Mapping[str, Any], seed: int) -> Iterator[Example]:
    """Draw the training examples of a family."""
    dataset = dataset_of(entry, seed, entry["num_examples"])
    for i in range(len(dataset)):
        yield _example(dataset[i], entry)


def other_examples(entry: Mapping[str, Any], seed: int, number: int, asked: Collection[str]) -> list[Example]:
    """Draw training examples of a family whose prompts are not among those that are asked.

    Raises:
        UserError: too few are left.
    """
    dataset = dataset_of(entry, seed, number * _MOST_DRAWS)
    drawn = (_example(dataset[i], entry) for i in range(len(dataset)))
    found = list(islice((example for example in drawn if example.prompt not in asked), number))
    if len(found) < number:
        raise UserError(
            f"task.replay needs {number} questions of family {entry['family']} that no suite asks, and {len(found)} "
            f"were found in {len(dataset)} draws: lower task.replay or num_examples"
        )
    return found


def check_entry(setting: str, entry: Any) -> None:
    """Check an entry of a mixture.

    Raises:
        UserError: other keys, or a value out of its range.
    """
    if not isinstance(entry, Mapping) or not _KEYS <= set(entry) <= _KEYS | _OPTIONAL_KEYS:
        got = sorted(entry) if isinstance(entry, Mapping) else entry
        raise UserError(f"{setting} must hold exactly {', '.join(sorted(_KEYS))}, got {got}")
    settings.integer(f"{setting}.num_examples", entry["num_examples"], low=1)
    settings.one_of(f"{setting}.answer", entry.get("answer", GIVEN), ANSWERS)


def _example(question: Mapping[str, Any], entry: Mapping[str, Any]) -> Example:
    return Example(prompt=prompt_of(question), completion=answer_of(question, entry.get("answer", GIVEN)))
