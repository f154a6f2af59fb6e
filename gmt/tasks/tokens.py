"""Training examples as tokens; counts what had to be left out. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from gmt.errors import UserError
from gmt.tasks.protocol import Conversation, Example, Message, Preference, TrainExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch's cross entropy passes these labels by


class TokenExample(TypedDict):
    """One example as token ids; the labels of what is not to be learnt are IGNORED."""

    input_ids: list[int]
    labels: list[int]


class TokenPreference(TypedDict):
    """A prompt and two answers as token ids, by the names of TRL's DPOTrainer."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


Tokens = TokenExample | TokenPreference


@dataclass(frozen=True, kw_only=True)
class TokenizedExamples:
    """The training examples as tokens, and how many were dropped because they are longer than is asked for."""

    examples: Sequence[Tokens]
    num_dropped: int

    @property
    def longest(self) -> int:
        """The most tokens of an example."""
        return max(map(_length, self.examples))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """A prompt as token ids, behind what the tokenizer puts before a text: most have a beginning-of-sequence token,
    and some declare one that their model has not seen at the beginning of plain text."""
    ids: list[int] = tokenizer(prompt)["input_ids"]
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids  # few tokenizers end a text


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer_follows: bool) -> list[int]:
    """Turns as token ids by the tokenizer's chat template, with what begins an answer if one is to follow."""
    from jinja2 import TemplateError

    try:
        rendered = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=answer_follows, tokenize=True
        )
    except TemplateError as error:
        raise UserError(f"task.chat_template can't be rendered: {error}") from error
    return _plain(rendered)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[TrainExample], *, max_length: int
) -> TokenizedExamples:
    """Turns examples into tokens.

    Args:
        tokenizer: of the model that trains; with the chat template that conversations need.
        examples: as the task gives them, all of one kind.
        max_length: an example of more tokens is dropped, since one without its end teaches the wrong thing.

    Raises:
        UserError: there is no example, every one is too long, or the chat template does not fit.
    """
    if not examples:
        raise UserError("task leaves no training example once the questions of its suites are taken out")
    made: list[Tokens] = [(_preference if isinstance(e, Preference) else _example)(tokenizer, e) for e in examples]
    kept = [each for each in made if _length(each) <= max_length]
    if not kept:
        shortest = min(_length(each) for each in made)
        raise UserError(
            f"train.max_length must leave a training example, got {max_length}: the shortest has {shortest} tokens"
        )
    return TokenizedExamples(examples=kept, num_dropped=len(examples) - len(kept))


def _example(tokenizer: PreTrainedTokenizerBase, example: TrainExample) -> TokenExample:
    if isinstance(example, Conversation):
        return _conversation(tokenizer, example.messages)
    assert isinstance(example, Example)
    prompt, completion = prompt_ids(tokenizer, example.prompt), _answer(tokenizer, example.completion)
    return {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}


def _conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> TokenExample:
    """Labels the tokens that each assistant's turn adds to what comes before it."""
    ids: list[int] = []
    labels: list[int] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = chat_ids(tokenizer, messages[:i], answer_follows=True)
        after = chat_ids(tokenizer, messages[: i + 1], answer_follows=False)
        if before[: len(ids)] != ids or after[: len(before)] != before:
            raise UserError(
                "task.chat_template must render a conversation's beginning as the whole begins, so that it is known "
                "what is to be learnt; this one does not"
            )
        if len(after) == len(before):
            raise UserError(
                "task.chat_template must render an assistant's turn, so that it can be learnt; this one does not"
            )
        labels += [IGNORED] * (len(before) - len(ids)) + after[len(before) :]
        ids = after
    return {"input_ids": ids, "labels": labels}


def _preference(tokenizer: PreTrainedTokenizerBase, example: TrainExample) -> TokenPreference:
    assert isinstance(example, Preference)
    if isinstance(example.prompt, str):
        prompt = prompt_ids(tokenizer, example.prompt)
        chosen, rejected = (_answer(tokenizer, text) for text in (example.chosen, example.rejected))
        return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    turns = [_conversation(tokenizer, [*example.prompt, _said(text)]) for text in (example.chosen, example.rejected)]
    prompt = chat_ids(tokenizer, example.prompt, answer_follows=True)
    chosen, rejected = (turn["input_ids"][len(prompt) :] for turn in turns)
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _length(made: Tokens) -> int:
    ids: Mapping[str, Any] = made
    if "input_ids" in ids:
        return len(ids["input_ids"])
    return len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"]))


def _plain(rendered: Any) -> list[int]:
    """Token ids, in whichever form transformers' template gives them."""
    return list(rendered["input_ids"] if hasattr(rendered, "keys") else rendered)
