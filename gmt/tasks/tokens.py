"""Tokenizes training examples, and counts those that are too long. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from gmt.errors import UserError, for_each, within
from gmt.tasks.protocol import Conversation, Message, Preference, TrainExample
from gmt.tasks.turns import Frame, answer_text, chat_text, frame_of, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch's cross entropy ignores this label


class TokenExample(TypedDict):
    """One example as token ids; tokens that are not to be learnt have the label IGNORED."""

    input_ids: list[int]
    labels: list[int]


class TokenPreference(TypedDict):
    """A prompt and two answers as token ids, under the names of TRL's DPOTrainer."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


Tokens = TokenExample | TokenPreference


@dataclass(frozen=True, kw_only=True)
class TokenizedExamples:
    """The training examples as tokens, and the number of examples that were dropped since they are too long."""

    examples: Sequence[Tokens]
    num_dropped: int

    @property
    def longest(self) -> int:
        """The number of tokens of the longest example."""
        return max(map(_length, self.examples))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return a plain prompt as token ids, with the tokens that the tokenizer puts before a text.

    The tokenizer's rule decides on a beginning-of-sequence token: some tokenizers declare one that their model has not
    seen at the beginning of plain text.
    """
    ids: list[int] = tokenizer(prompt)["input_ids"]
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids  # a few tokenizers append the end token


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer_follows: bool) -> list[int]:
    """Return turns as token ids by the tokenizer's chat template; with the beginning of an answer if one follows."""
    return text_ids(tokenizer, chat_text(tokenizer, messages, answer_follows=answer_follows))


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[TrainExample],
    *,
    max_length: int,
    model_ends: Collection[int] = (),
) -> TokenizedExamples:
    """Return examples as tokens.

    Args:
        tokenizer: the model's tokenizer, with the chat template that conversations need.
        examples: the task's examples, all of one type.
        max_length: the most tokens of an example; longer ones are dropped, since cutting off the end would teach the
            model not to end an answer.
        model_ends: the tokens at which the model itself ends an answer, in addition to those of tokenizer and template.

    Raises:
        UserError: there is no example, every one is too long, the chat template does not fit, or an answer holds a
            token or text that would end it.
    """
    if not examples:
        raise UserError("task must have a training example that is not among the questions of its suites, got none")
    has_turns = any(isinstance(e, Conversation) or not isinstance(e.prompt, str) for e in examples)
    frame = frame_of(tokenizer, is_chat=has_turns)
    ends = _Ends(tokenizer, frame, model_ends)
    tokenized = [tokens for row in for_each(examples, lambda e: _tokens(tokenizer, e, frame, ends)) for tokens in row]
    fitting = [tokens for tokens in tokenized if _length(tokens) <= max_length]
    if not fitting:
        shortest = min(_length(tokens) for tokens in tokenized)
        raise UserError(
            f"train.max_length must leave a training example, got {max_length}: the shortest has {shortest} tokens"
        )
    return TokenizedExamples(examples=fitting, num_dropped=len(tokenized) - len(fitting))


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
    """Yield examples with the tokens of each assistant's turn labelled, each after the same tokens as in evaluation.

    A conversation gives one example if each turn's prompt continues the turns before it. If a template renders a turn
    differently once others follow (without its thinking, with another end), a new example begins there.
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
    """Return the tokens of a prompt, and the tokens of an answer to it with its end."""
    prompt = chat_text(tokenizer, before, answer_follows=True)
    whole = chat_text(tokenizer, [*before, message], answer_follows=False)
    answer = answer_text(prompt, whole)
    if _without_blanks(message["content"]) not in _without_blanks(answer):
        raise UserError(
            "task.chat_template must not change an assistant's turn, so that it can be learnt; this one renders "
            f"{message['content'][:60]!r} as {answer[:60]!r}"
        )
    end = []
    if frame.missing_end is not None:
        answer, end = answer.removesuffix(frame.missing_end), [tokenizer.eos_token_id]
    ids, joined = text_ids(tokenizer, prompt), text_ids(tokenizer, prompt + answer)
    if joined[: len(ids)] != ids:  # the tokenizer joins the answer's beginning to the prompt's end
        return ids, text_ids(tokenizer, answer) + end
    return ids, joined[len(ids) :] + end


def _without_blanks(text: str) -> str:
    """Return a text without blanks, since templates trim turns, and put line feeds around thinking."""
    return "".join(text.split())


def _preference(tokenizer: PreTrainedTokenizerBase, example: Preference, frame: Frame) -> TokenPreference:
    if isinstance(example.prompt, str):
        prompt = prompt_ids(tokenizer, example.prompt)
        chosen, rejected = (_answer(tokenizer, text) for text in (example.chosen, example.rejected))
    else:
        (prompt, chosen), (_, rejected) = (
            _turn(tokenizer, example.prompt, _answer_turn(text), frame) for text in (example.chosen, example.rejected)
        )
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _answer_turn(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [*text_ids(tokenizer, text), tokenizer.eos_token_id]


def _answers(example: TrainExample) -> list[str]:
    if isinstance(example, Conversation):
        return [message["content"] for message in example.messages if message["role"] == "assistant"]
    return [example.chosen, example.rejected] if isinstance(example, Preference) else [example.completion]


class _Ends:
    """The tokens that end an answer, and the text with which a template ends an answer if no token does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame: Frame, model_ends: Collection[int]):
        ids = {*model_ends, frame.end, tokenizer.eos_token_id} - {None}
        self._tokenizer, self._text = tokenizer, frame.after.strip()
        self._tokens = {id_: str(tokenizer.convert_ids_to_tokens(id_)) for id_ in sorted(ids)}

    def refuse_in(self, answer: str) -> None:
        """Refuse an answer that contains a token or text that ends answers: a model would learn to stop inside it."""
        ends = [token for id_, token in self._tokens.items() if token and token in answer and self._is_in(answer, id_)]
        if not ends and self._text and self._text in answer:
            ends = [self._text]
        if ends:
            raise UserError(
                f"an answer must not hold {ends[0]!r}, which ends an answer, got "
                f"{answer[max(answer.index(ends[0]) - 40, 0) :][:80]!r}"
            )

    def _is_in(self, answer: str, id_: int) -> bool:
        return id_ in text_ids(self._tokenizer, answer)


def _length(tokens: Tokens) -> int:
    ids: Mapping[str, Any] = tokens
    if "input_ids" in ids:
        return len(ids["input_ids"])
    return len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"]))
