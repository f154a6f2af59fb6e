"""A conversation as a chat template's text, and what the template puts around an answer. Imports no torch.

A template may begin an answer with text of its own (an empty `<think></think>`, the name of a channel) and ends it by a
token that is often not the tokenizer's end of sequence. A model learns both with the answer, and says both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.tasks.protocol import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER = "qwzquestionzwq", "qwzanswerzwq"  # texts that no template holds, trims or takes for thinking


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The text and the end token that a chat template adds to an answer.

    Args:
        before: text between the prompt and the answer.
        after: text between the answer and the token that ends it; all that ends it where no token does.
        end: the token that ends it; None where text alone does.
        missing_end: where a template puts nothing but these blanks behind an answer, so that the tokenizer's end of
            sequence has to be put in their place; None where it ends an answer itself.
        num_tokens: how many tokens a model says besides the answer and its end.
    """

    before: str
    after: str
    end: int | None
    missing_end: str | None
    num_tokens: int

    @property
    def stop_text(self) -> str | None:
        """The text that ends an answer where no token does."""
        return self.after.strip() if self.end is None else None

    def answer_in(
        self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: Sequence[int], *, right: str = ""
    ) -> str:
        """The answer in what a model says: up to the first of `ends`, without what the template puts around it.

        Special tokens are no part of it, but for those that the right answer holds (`<s>` of a text in HTML).

        Args:
            tokenizer: of the model.
            ids: what it says.
            ends: the tokens that end an answer.
            right: the right answer; empty where it is unknown.
        """
        count = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        before, after = self.before.strip(), self.after.strip()
        in_right = {token for token in tokenizer.all_special_tokens if token in right}
        text = _decode(tokenizer, ids[:count], special=in_right)
        whole = _decode(tokenizer, ids[:count], special=None).lstrip() if before else ""
        if before and whole.startswith(before):
            text = whole.removeprefix(before)
            for token in set(tokenizer.all_special_tokens) - in_right:
                text = text.replace(token, "")
        return text.partition(after)[0] if after else text


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer_follows: bool) -> str:
    """Turns as a text by the tokenizer's chat template, with what begins an answer if one is to follow.

    Raises:
        UserError: the template breaks, or refuses these turns.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=answer_follows, tokenize=False
        )
    except (TemplateError, TypeError, RecursionError) as error:
        raise UserError(f"task.chat_template can't be rendered: {error}") from error
    return str(text)


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text to which the tokenizer adds nothing."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def frame_of(tokenizer: PreTrainedTokenizerBase, *, is_chat: bool) -> Frame:
    """What the tokenizer's chat template puts around an answer; nothing, and the end of sequence, around a plain one.

    Raises:
        UserError: the template leaves out a turn, or does not begin an answer as it asks for one.
    """
    if not is_chat:
        return Frame(before="", after="", end=tokenizer.eos_token_id, missing_end=None, num_tokens=0)
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    prompt = chat_text(tokenizer, turns[:1], answer_follows=True)
    answer = answer_text(prompt, chat_text(tokenizer, turns, answer_follows=False))
    for role, text, part in (("an assistant's", _ANSWER, answer), ("a user's", _QUESTION, prompt)):
        if text not in part:
            raise UserError(f"task.chat_template must render {role} turn, so that it can be learnt; this one does not")
    before, _, behind = answer.partition(_ANSWER)
    end = _end(tokenizer, behind) if behind.strip() else tokenizer.eos_token_id
    after = behind if end is None else behind.partition(str(tokenizer.convert_ids_to_tokens(end)))[0]
    beginning = text_ids(tokenizer, before)
    if {end, tokenizer.eos_token_id} & set(beginning):
        raise UserError(f"task.chat_template must not end an answer before it begins; this one begins it by {before!r}")
    return Frame(
        before=before,
        after=after if behind.strip() else "",
        end=end,
        missing_end=None if behind.strip() else behind,
        num_tokens=max(
            len(beginning) + len(text_ids(tokenizer, after)),
            len(text_ids(tokenizer, before + _ANSWER + after)) - len(text_ids(tokenizer, _ANSWER)),
        ),
    )


def answer_text(prompt: str, whole: str) -> str:
    """Return the tokens that an answer adds to its prompt.

    Raises:
        UserError: the conversation does not begin as its prompt does.
    """
    if not whole.startswith(prompt):
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise UserError(
            "task.chat_template must render a conversation's beginning as the whole begins, so that it is known what "
            f"is to be learnt; this one asks for an answer by {prompt[max(same - 20, 0) :]!r} and begins an answer "
            f"that is there by {whole[max(same - 20, 0) : same + 20]!r}"
        )
    return whole[len(prompt) :]


def _end(tokenizer: PreTrainedTokenizerBase, after: str) -> int | None:
    """The first token of a text that the tokenizer has by itself: special, or added to its vocabulary."""
    own = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.content.strip())}
    return next((token for token in text_ids(tokenizer, after) if token in own), None)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special: Collection[str] | None) -> str:
    """Return the text of tokens, with these special ones alone; None for all."""
    if special:
        others = {i for i in tokenizer.all_special_ids if tokenizer.convert_ids_to_tokens(i) not in special}
        ids, special = [i for i in ids if i not in others], None
    text = tokenizer.decode(list(ids), skip_special_tokens=special is not None, clean_up_tokenization_spaces=False)
    return str(text)
