"""Checks values that the code of plug-ins returns, so that a wrong one is refused and enters no score.

gmt/tasks/protocol.py says which values are right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real

from gmt.errors import UserError
from gmt.tasks.protocol import Conversation, Example, Preference, Score, Suite, Task, TrainExample

_ROUNDING = 1e-3  # nats
_ROUNDING_OF_SCORES = 1e-6


def check_examples(task: Task, examples: Sequence[TrainExample]) -> None:
    """Refuse training examples without text, or of another kind than the task's settings say.

    Raises:
        UserError: a sentence on the first wrong example.
    """
    for number, example in enumerate(examples):
        if (fault := _fault_of_example(task, example)) is not None:
            origin = getattr(example, "origin", "") or f"at index {number}"
            raise UserError(
                f"task: {_class(task)} must return {fault} from train_examples() (see gmt.tasks.protocol), got "
                f"{example!r:.200} {origin}"
            )


def _fault_of_example(task: Task, example: TrainExample) -> str | None:
    if not isinstance(example, Example | Conversation | Preference):
        return "Example, Conversation or Preference objects"
    if isinstance(example, Preference) != bool(task.is_preference):
        return "Preference objects if is_preference is True, and no others"
    if task.chat_template is None:
        if isinstance(example, Conversation) or not _is_text(example.prompt):
            return "prompts that are texts if chat_template is None"
    elif isinstance(example, Example):
        return "Conversation objects if there is a chat_template"
    elif not _are_messages(example.messages if isinstance(example, Conversation) else example.prompt):
        return "messages, each with a role and a content, if there is a chat_template"
    if isinstance(example, Conversation):
        has_answer = any(turn["role"] == "assistant" for turn in example.messages)
        return None if has_answer else "conversations with a turn of the assistant"
    texts = (example.completion,) if isinstance(example, Example) else (example.chosen, example.rejected)
    return None if all(map(_is_text, texts)) else "completions that are texts"


def _are_messages(messages: object) -> bool:
    has_turns = isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages) > 0
    return has_turns and all(
        isinstance(turn, Mapping) and _is_text(turn.get("role")) and _is_text(turn.get("content"))
        for turn in messages  # type: ignore[attr-defined]
    )


def are_texts(values: object) -> bool:
    """Return whether a value is a sequence of texts, and no text itself."""
    return isinstance(values, Sequence) and not isinstance(values, str | bytes) and all(map(_is_text, values))


def _is_text(value: object) -> bool:
    """Return whether a value is a text that UTF-8 can encode; a lone surrogate can't be encoded."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def faults_of_suite(suite: Suite) -> Iterator[str]:
    """Yield a clause on each wrong value of a suite: the rule and the value."""
    prompts = suite.prompts
    if not isinstance(prompts, Sequence) or isinstance(prompts, str | bytes) or not prompts:
        yield f"prompts must be a list of at least one text, got {prompts!r:.80}"
        return
    for prompt in prompts:
        if not _is_text(prompt):
            yield f"prompts must be texts, got {prompt!r:.80}"
            break
    number = suite.max_new_tokens
    if not isinstance(number, Integral) or isinstance(number, bool) or int(number) < 1:
        yield f"max_new_tokens must be a whole number of at least 1, got {number!r:.80}"
    for name in ("answers", "expected"):
        texts = getattr(suite, name)
        if texts is not None and (not are_texts(texts) or len(texts) != len(prompts)):
            yield f"{name} must be None or a text for each of the {len(prompts)} prompts, got {texts!r:.80}"
    if not callable(suite.score):
        yield f"score must be a function of the index and the answer, got {suite.score!r:.80}"


def answer_score(score: Callable[[int, str], object], index: int, text: str) -> float:
    """Return a suite's score of an answer, in [0, 1] but for rounding: sums of parts of a credit may exceed 1 by it.

    Such a sum stays as it is, so that it is no exact match.

    Args:
        score: the suite's scorer.
        index: the index of the prompt.
        text: the answer.

    Raises:
        UserError: the score does not lie in [0, 1].
    """
    value = score(index, text)
    if type(value).__name__ == "bool":  # Python's, or numpy's, which is no Real
        value = bool(value)
    if not isinstance(value, Real) or not _is_score(float(value)):
        raise UserError(f"score must return a number in [0, 1], got {value!r:.80} for the answer {text!r:.80}")
    return float(value)


def checked_score(score: object, *, is_score: bool) -> Score:
    """Return the result of a benchmark.

    Args:
        score: the returned value.
        is_score: whether the value must lie in [0, 1].

    Raises:
        UserError: it is no Score, its value is no number or lies outside of [0, 1], or its answers are no plain values.
    """
    if not isinstance(score, Score):
        raise UserError(f"evaluate() must return a gmt.tasks.protocol.Score, got {score!r:.80}")
    if not isinstance(score.metric, str) or not score.metric:
        raise UserError(f"evaluate() must return a Score whose metric is a name, got {score.metric!r:.80}")
    value = score.value
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UserError(f"evaluate() must return a Score whose value is a number, got {value!r:.80}")
    if is_score and not _is_score(float(value)):
        raise UserError(
            f"evaluate() must return a value in [0, 1], since is_score is True, got {float(value)!r} as {score.metric}"
        )
    if score.metric.endswith("perplexity") and float(value) <= 0:
        raise UserError(f"evaluate() must return a perplexity above 0, got {float(value)!r}")
    if score.metric in ("nll", "kl") and float(value) < -_ROUNDING:
        raise UserError(f"evaluate() must return at least 0 as {score.metric}, got {float(value)!r}")
    rows = list(score.answers) if isinstance(score.answers, Sequence) else None
    if rows is None or not all(isinstance(row, Mapping) for row in rows):
        raise UserError(f"evaluate() must return a row of answers for each question, got {score.answers!r:.80}")
    try:
        json.dumps(rows)
    except (TypeError, ValueError) as error:
        raise UserError(f"evaluate() must return rows of plain values as answers: {error}") from error
    return Score(metric=score.metric, value=float(value), answers=rows)


def _is_score(value: float) -> bool:
    """Return whether a value lies in [0, 1] but for rounding."""
    return -_ROUNDING_OF_SCORES <= value <= 1 + _ROUNDING_OF_SCORES


def _class(task: Task) -> str:
    return f"class {type(task).__module__}.{type(task).__qualname__}"
