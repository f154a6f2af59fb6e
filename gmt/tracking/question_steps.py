"""The number of a task's questions, and the change of its score by one question, from the config of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("target", "source")
# Benchmarks that give no score: a part's score is the mean over the others.
_WITHOUT_SCORE = ("gmt.evaluation.right_answers.RightAnswers", "gmt.evaluation.perplexity.Perplexity")


def numbers_of_questions(config: Mapping[str, Any], part: str) -> list[int]:
    """Return the number of questions of each suite of a part; empty if a suite's settings lack it.

    Args:
        config: the config of a run.
        part: `target` or `source`.
    """
    entries = [entry if isinstance(entry, Mapping) else {} for entry in config["task"].get(part, {}).values()]
    suites = [entry for entry in entries if entry.get("_target_") not in _WITHOUT_SCORE]
    numbers = [entry.get("num_examples") for entry in suites]
    known = [number for number in numbers if isinstance(number, int) and number > 0]
    return known if len(known) == len(suites) else []


def question_steps(config: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the change of each part's score by one question of its smallest suite, as `target_step` and `source_step`.

    Args:
        config: the config of a run.
    """
    numbers = {part: numbers_of_questions(config, part) for part in PARTS}
    return {f"{part}_step": 1 / (min(sizes) * len(sizes)) if sizes else None for part, sizes in numbers.items()}
