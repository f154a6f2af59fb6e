"""Draws questions with answers from the task families of reasoning-gym."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib import metadata
from itertools import islice
from typing import Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.late_imports import imported_late
from gmt.tasks.protocol import Example

GIVEN, BACKWARD = "given", "backward"
ANSWERS = (GIVEN, BACKWARD)
_KEYS = {"family", "settings", "num_examples"}
_ANSWER = "answer"  # an optional key
_MAX_DRAWS = 50  # draws for each question, after which a family with too few distinct questions is refused
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
# Modules that reasoning-gym's library for the game of life imports for plots, in half a second; questions need none.
_PLOTTING = {
    "matplotlib": (),
    "matplotlib.pyplot": (),
    "matplotlib.animation": (),
    "matplotlib.collections": (),
    "mpl_toolkits": (),
    "mpl_toolkits.mplot3d": ("Axes3D",),
}


@lru_cache(maxsize=1)
def generator_version() -> str:
    """Return reasoning-gym's version; cached, since a plan of 10,000 runs needs it for each run."""
    return metadata.version("reasoning-gym")


def prompt_of(question: Mapping[str, Any]) -> str:
    """Return the prompt of a question."""
    text: str = question["question"]
    return text.strip() + "\n"


def reordered(text: str, answer: str) -> str:
    """Return a text with its characters in the order that `answer` names; applied twice, it returns the text itself."""
    return text[::-1] if answer == BACKWARD else text


def answer_of(question: Mapping[str, Any], answer: str) -> str:
    """Return the right answer in the order of characters that `answer` names."""
    return reordered(str(question["answer"]), answer)


def words_of(prompt: str) -> tuple[str, ...]:
    """Return the words and numbers of a prompt, sorted; the same for `1 + 2 + 3` and `3 + 1 + 2`."""
    return tuple(sorted(_WORD.findall(prompt)))


def numbers_of(prompt: str) -> tuple[str, ...]:
    """Return the numbers of a prompt, sorted; the same for `What is 1 + 2?` and `Compute 2 + 1`."""
    return tuple(sorted(_NUMBER.findall(prompt)))


def drawn_questions(entry: Mapping[str, Any], seed: int, *, distinct: bool) -> tuple[Any, list[dict[str, Any]]]:
    """Return a family's dataset, which scores answers, and its first questions.

    Args:
        entry: the family, its settings and the number of questions.
        seed: question i is drawn from seed + i.
        distinct: whether each prompt may occur only once; question i is then the i-th new one.

    Raises:
        UserError: the family is unknown, refuses the settings, or has too few distinct questions.
    """
    number = entry["num_examples"]
    if not distinct:
        dataset = _dataset(entry, seed, number)
        return dataset, [dataset[i] for i in range(number)]
    dataset = _dataset(entry, seed, number * _MAX_DRAWS)
    by_prompt: dict[str, dict[str, Any]] = {}
    for i in range(len(dataset)):
        question = dataset[i]
        by_prompt.setdefault(prompt_of(question), question)
        if len(by_prompt) == number:
            return dataset, list(by_prompt.values())
    raise UserError(
        f"num_examples must be at most {len(by_prompt)}, the number of distinct questions found in {len(dataset)} "
        f"draws, got {number}"
    )


def examples_of(entry: Mapping[str, Any], seed: int) -> list[Example]:
    """Return the training examples of a family.

    Raises:
        UserError: as `drawn_questions`.
    """
    _, questions = drawn_questions(entry, seed, distinct=False)
    return [_example(question, entry) for question in questions]


def other_examples(entry: Mapping[str, Any], seed: int, number: int, prompts: Collection[str]) -> list[Example]:
    """Return training examples of a family whose prompts are not among `prompts`.

    Raises:
        UserError: the family has too few other examples.
    """
    dataset = _dataset(entry, seed, number * _MAX_DRAWS)
    drawn = (_example(dataset[i], entry) for i in range(len(dataset)))
    others = list(islice((example for example in drawn if example.prompt not in prompts), number))
    if len(others) < number:
        raise UserError(
            f"task.replay needs {number} questions of family {entry['family']} that no suite asks, but only "
            f"{len(others)} were found in {len(dataset)} draws: lower task.replay or num_examples"
        )
    return others


def check_entry(setting: str, entry: Any) -> None:
    """Check an entry of a task's mixture of families.

    Raises:
        UserError: it has other keys, or a value is out of its range.
    """
    if not isinstance(entry, Mapping) or not _KEYS <= set(entry) <= _KEYS | {_ANSWER}:
        got = sorted(entry) if isinstance(entry, Mapping) else entry
        raise UserError(f"{setting} must hold exactly {', '.join(sorted(_KEYS))}, or {_ANSWER} too, got {got}")
    settings.integer(f"{setting}.num_examples", entry["num_examples"], low=1)
    settings.one_of(f"{setting}.{_ANSWER}", entry.get(_ANSWER, GIVEN), ANSWERS)


def _dataset(entry: Mapping[str, Any], seed: int, size: int) -> Any:
    """Return `size` questions of a family; planning must not call this, since importing reasoning-gym takes seconds."""
    reasoning_gym = _reasoning_gym()
    family, families = entry["family"], reasoning_gym.factory.DATASETS
    if family not in families:
        raise UserError(f"reasoning-gym has no family {family!r}; {choices(str(family), families)}")
    try:
        return reasoning_gym.create_dataset(family, seed=seed, size=size, **entry["settings"])
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"reasoning-gym's family {family} refuses {dict(entry['settings'])}: {error}") from error


@lru_cache(maxsize=1)
def _reasoning_gym() -> Any:
    with imported_late(_PLOTTING):
        import reasoning_gym.factory
    return reasoning_gym


def _example(question: Mapping[str, Any], entry: Mapping[str, Any]) -> Example:
    return Example(prompt=prompt_of(question), completion=answer_of(question, entry.get(_ANSWER, GIVEN)))
