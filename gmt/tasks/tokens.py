"""Training examples as tokens; counts what had to be left out. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from gmt.errors import UserError, for_each, within
from gmt.tasks.protocol import Conversation, Message, Preference, TrainExample
from gmt.tasks.turns import Frame, answer_text, chat_text, frame_of, text_ids

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
    return text_ids(tokenizer, chat_text(tokenizer, messages, answer_follows=answer_follows))


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[TrainExample],
    *,
    max_length: int,
    model_ends: Collection[int] = (),
) -> TokenizedExamples:
    """Turns examples into tokens.

    Args:
        tokenizer: of the model that trains; with the chat template that conversations need.
        examples: as the task gives them, all of one kind.
        max_length: an example of more tokens is dropped, since one without its end teaches the wrong thing.
        model_ends: tokens at which the model itself ends an answer, beside those of tokenizer and template.

    Raises:
        UserError: there is no example, every one is too long, the chat template does not fit, or an answer holds what
            would end it.
    """
    if not examples:
        raise UserError("task leaves no training example once the questions of its suites are taken out")
    has_turns = any(isinstance(e, Conversation) or not isinstance(e.prompt, str) for e in examples)
    frame = frame_of(tokenizer, is_chat=has_turns)
    ends = _Ends(tokenizer, frame, model_ends)
    made = [tokens for each in for_each(examples, lambda e: _tokens(tokenizer, e, frame, ends)) for tokens in each]
    kept = [each for each in made if _length(each) <= max_length]
    if not kept:
        shortest = min(_length(each) for each in made)
        raise UserError(
            f"train.max_length must leave a training example, got {max_length}: the shortest has {shortest} tokens"
        )
    return TokenizedExamples(examples=kept, num_dropped=len(made) - len(kept))


def _tokens(tokenizer: PreTrainedTokenizerBase, example: TrainExample, frame: Frame, ends: _Ends) -> list[Tokens]:
    with within(example.origin):
        for answer in _answers(example):
            ends.refuse_in(answer)
        if isinstance(example, Conversation):
            return [*_conversation(tokenizer, example.messages, frame)]
        if isinstance(example, Preference):
            return [_preference(tokenizer, example, frame)]
        prompt, completion = prompt_ids(tokenizer, example.prompt), _answer(tokenizer, example.completion)
    return [{"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}]


def _conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], frame: Frame
) -> Iterator[TokenExample]:
    """Labels the tokens of each assistant's turn, each behind the very tokens that evaluation asks it by.

    One example, as far as each turn's prompt goes on from the turns before it; templates that render a turn in another
    way once others follow (without its thinking, with another end) begin a new example there.
    """
    ids: list[int] = []
    labels: list[int] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, answer = _turn(tokenizer, messages[:i], message, frame)
        if prompt[: len(ids)] != ids:
            yield {"input_ids": ids, "labels": labels}
            ids, labels = [], []
        labels = labels + [IGNORED] * (len(prompt) - len(ids)) + answer
        ids = prompt + answer
    yield {"input_ids": ids, "labels": labels}


def _turn(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[Message], message: Message, frame: Frame
) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and those of an answer to it with its end."""
    prompt = chat_text(tokenizer, before, answer_follows=True)
    whole = chat_text(tokenizer, [*before, message], answer_follows=False)
    answer = answer_text(prompt, whole)
    if _without_blanks(message["content"]) not in _without_blanks(answer):
        raise UserError(
            "task.chat_template must render an assistant's turn as it stands, so that it can be learnt; this one makes "
            f"{answer[:60]!r} of {message['content'][:60]!r}"
        )
    end = []
    if frame.missing_end is not None:
        answer, end = answer.removesuffix(frame.missing_end), [tokenizer.eos_token_id]
    ids, joined = text_ids(tokenizer, prompt), text_ids(tokenizer, prompt + answer)
    if joined[: len(ids)] != ids:  # the answer begins with what its tokenizer joins to the prompt's end
        return ids, text_ids(tokenizer, answer) + end
    return ids, joined[len(ids) :] + end


def _without_blanks(text: str) -> str:
    """Templates trim turns, and put line feeds around thinking."""
    return "".join(text.split())


def _preference(tokenizer: PreTrainedTokenizerBase, example: Preference, frame: Frame) -> TokenPreference:
    if isinstance(example.prompt, str):
        prompt = prompt_ids(tokenizer, example.prompt)
        chosen, rejected = (_answer(tokenizer, text) for text in (example.chosen, example.rejected))
    else:
        (prompt, chosen), (_, rejected) = (
            _turn(tokenizer, example.prompt, _said(text), frame) for text in (example.chosen, example.rejected)
        )
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [*text_ids(tokenizer, text), tokenizer.eos_token_id]


def _answers(example: TrainExample) -> list[str]:
    if isinstance(example, Conversation):
        return [message["content"] for message in example.messages if message["role"] == "assistant"]
    return [example.chosen, example.rejected] if isinstance(example, Preference) else [example.completion]


class _Ends:
    """What would end an answer: tokens, and the text that a template puts behind one whose end is no token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame: Frame, model_ends: Collection[int]):
        ids = {*model_ends, frame.end, tokenizer.eos_token_id} - {None}
        self._tokenizer, self._text = tokenizer, frame.after.strip()
        self._tokens = {id_: str(tokenizer.convert_ids_to_tokens(id_)) for id_ in sorted(ids)}

    def refuse_in(self, answer: str) -> None:
        """Refuse an answer that holds what would end it: a model would learn to stop within it."""
        held = [token for id_, token in self._tokens.items() if token and token in answer and self._is_in(answer, id_)]
        if not held and self._text and self._text in answer:
            held = [self._text]
        if held:
            raise UserError(
                f"an answer must not hold {held[0]!r}, which is put behind each answer and ends it, got "
                f"{answer[max(answer.index(held[0]) - 40, 0) :][:80]!r}"
            )

    def _is_in(self, answer: str, id_: int) -> bool:
        return id_ in text_ids(self._tokenizer, answer)


def _length(made: Tokens) -> int:
    ids: Mapping[str, Any] = made
    if "input_ids" in ids:
        return len(ids["input_ids"])
    return len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"]))
