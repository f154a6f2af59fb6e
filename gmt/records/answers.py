"""Reads the answers of a run by question, and finds the questions on which two runs differ."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from gmt.records.record import RunRecord

Key = tuple[str, str, str, int]  # part, suite, prompt, and its number among equal prompts
Answers = Mapping[Key, Mapping[str, Any]]


class Flip(NamedTuple):
    """A question that only one of two runs answers correctly, with both answers."""

    key: Key
    answers: tuple[str, str]


def answers_of(record: RunRecord, when: str = "after") -> Answers:
    """Return a run's answers by question; empty if its record has none.

    Args:
        record: the run's record.
        when: `before` for the base's answers, `after` for the answers of the run's weights.
    """
    name = f"answers_{when}.jsonl"
    if not (record.folder / name).exists():
        return {}
    seen: Counter[tuple[str, str, str]] = Counter()
    answers = {}
    for row in record.read_lines(name):
        question = (row["part"], row["suite"], row["prompt"])
        answers[*question, seen[question]] = row
        seen[question] += 1
    return answers


def flips_of(first: Answers, second: Answers) -> tuple[list[Flip], list[Flip]]:
    """Return the questions that only the first run answers correctly (score 1), and those that only the second does."""
    flips: tuple[list[Flip], list[Flip]] = ([], [])
    for key, row in first.items():
        other = second.get(key)
        if other is not None and (is_right := row["score"] >= 1) != (other["score"] >= 1):
            flips[0 if is_right else 1].append(Flip(key, (str(row["answer"]), str(other["answer"]))))
    return flips
