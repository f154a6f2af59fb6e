"""Draws questions with answers from reasoning-gym's families."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
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
_ANSWER = "answer"  # may be left out
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


def written(text: str, answer: str) -> str:
    """Return an answer in the order of signs that `answer` names; twice gives the answer itself."""
    return text[::-1] if answer == BACKWARD else text


def answer_of(question: Mapping[str, Any], answer: str) -> str:
    """Return the right answer, written as `answer` says."""
    return written(str(question["answer"]), answer)


def words_of(prompt: str) -> tuple[str, ...]:
    """Return the words and numbers of a prompt in an order of their own: the same for `1 + 2 + 3` and `3 + 1 + 2`."""
    return tuple(sorted(_WORD.findall(prompt)))


def drawn_questions(entry: Mapping[str, Any], seed: int, *, distinct: bool) -> tuple[Any, list[dict[str, Any]]]:
    """Return a family's dataset, which scores answers, and its first questions.

    Args:
        entry: family, settings and the number of questions.
        seed: question i is drawn from seed + i.
        distinct: whether each prompt may come once only; question i is then the i-th that is new.

    Raises:
        UserError: an unknown family, settings that it refuses, or too few distinct questions.
    """
    number = entry["num_examples"]
    if not distinct:
        dataset = _dataset(entry, seed, number)
        return dataset, [dataset[i] for i in range(number)]
    dataset = _dataset(entry, seed, number * _MOST_DRAWS)
    found: dict[str, dict[str, Any]] = {}
    for i in range(len(dataset)):
        question = dataset[i]
        found.setdefault(prompt_of(question), question)
        if len(found) == number:
            return dataset, list(found.values())
    raise UserError(
        f"num_examples must be at most {len(found)}, the distinct questions that were found in {len(dataset)} draws, "
        f"got {number}"
    )


def examples_of(entry: Mapping[str, Any], seed: int) -> list[Example]:
    """Draw the training examples of a family.

    Raises:
        UserError: as `drawn_questions`.
    """
    _, questions = drawn_questions(entry, seed, distinct=False)
    return [_example(question, entry) for question in questions]


def other_examples(entry: Mapping[str, Any], seed: int, number: int, asked: Collection[str]) -> list[Example]:
    """Draw training examples of a family whose prompts are not among those that are asked.

    Raises:
        UserError: too few are left.
    """
    dataset = _dataset(entry, seed, number * _MOST_DRAWS)
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
    if not isinstance(entry, Mapping) or not _KEYS <= set(entry) <= _KEYS | {_ANSWER}:
        got = sorted(entry) if isinstance(entry, Mapping) else entry
        raise UserError(f"{setting} must hold exactly {', '.join(sorted(_KEYS))}, or {_ANSWER} too, got {got}")
    settings.integer(f"{setting}.num_examples", entry["num_examples"], low=1)
    settings.one_of(f"{setting}.{_ANSWER}", entry.get(_ANSWER, GIVEN), ANSWERS)


def _dataset(entry: Mapping[str, Any], seed: int, size: int) -> Any:
    """Return `size` questions of a family; importing reasoning-gym takes seconds, so that planning never comes here."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    family = entry["family"]
    if family not in DATASETS:
        raise UserError(f"reasoning-gym has no family {family!r}; {choices(str(family), DATASETS)}")
    try:
        return reasoning_gym.create_dataset(family, seed=seed, size=size, **entry["settings"])
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"reasoning-gym's family {family} refuses {dict(entry['settings'])}: {error}") from error


def _example(question: Mapping[str, Any], entry: Mapping[str, Any]) -> Example:
    return Example(prompt=prompt_of(question), completion=answer_of(question, entry.get(_ANSWER, GIVEN)))
