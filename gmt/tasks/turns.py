"""Renders conversations by a chat template, and finds the text that the template puts around an answer. No torch.

A template may begin an answer with fixed text (an empty `<think></think>`, the name of a channel), and ends it by a
token that often differs from the tokenizer's end of sequence. A model learns both with the answer, and generates both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.tasks.protocol import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER = "qwzquestionzwq", "qwzanswerzwq"  # texts that no template contains, trims or takes for thinking


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The text and the end token that a chat template adds to an answer.

    Args:
        before: text between the prompt and the answer.
        after: text between the answer and the token that ends it; if no token ends it, the text that ends it.
        end: the token that ends it; None if text alone does.
        missing_end: the blanks that a template puts behind an answer, if it puts nothing else there; the tokenizer's
            end of sequence replaces them. None if the template ends an answer itself.
        num_tokens: how many tokens a model generates besides the answer and its end.
    """

    before: str
    after: str
    end: int | None
    missing_end: str | None
    num_tokens: int

    @property
    def stop_text(self) -> str | None:
        """The text that ends an answer if no token does; else None."""
        return self.after.strip() if self.end is None else None

    def answer_in(
        self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: Sequence[int], *, right: str = ""
    ) -> str:
        """Return the answer in generated tokens: up to the first of `ends`, without the template's text around it.

        Special tokens are left out, except for those in the right answer (`<s>` of a text in HTML).

        Args:
            tokenizer: the model's tokenizer.
            ids: the generated tokens.
            ends: the tokens that end an answer.
            right: the right answer; empty if it is unknown.
        """
        count = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        before, after = self.before.strip(), self.after.strip()
        in_right = {token for token in tokenizer.all_special_tokens if token and token in right}
        text = _decode(tokenizer, ids[:count], special=in_right)
        whole = _decode(tokenizer, ids[:count], special=None).lstrip() if before else ""
        if before and whole.startswith(before):
            text = whole.removeprefix(before)
            for token in sorted(
                set(tokenizer.all_special_tokens) - in_right, key=len, reverse=True
            ):  # one may hold another
                text = text.replace(token, "")
        return text.partition(after)[0] if after else text


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer_follows: bool) -> str:
    """Return turns as text by the tokenizer's chat template; with the beginning of an answer if one follows.

    Raises:
        UserError: the template raises an error, or refuses these turns.
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
    """Return the token ids of a text, without special tokens added by the tokenizer."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def frame_of(tokenizer: PreTrainedTokenizerBase, *, is_chat: bool) -> Frame:
    """Return the text and tokens that the chat template puts around an answer; without chat, the end of sequence only.

    Raises:
        UserError: the template leaves out a turn, or begins a given answer differently from its generation prompt.
    """
    if not is_chat:
        return Frame(before="", after="", end=tokenizer.eos_token_id, missing_end=None, num_tokens=0)
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    prompt = chat_text(tokenizer, turns[:1], answer_follows=True)
    answer = answer_text(prompt, chat_text(tokenizer, turns, answer_follows=False))
    for role, text, part in (("an assistant's", _ANSWER, answer), ("a user's", _QUESTION, prompt)):
        if text not in part:
            raise UserError(f"task.chat_template must render {role} turn, but this template leaves out its text")
    before, _, behind = answer.partition(_ANSWER)
    end = _end(tokenizer, behind) if behind.strip() else tokenizer.eos_token_id
    after = behind if end is None else behind.partition(str(tokenizer.convert_ids_to_tokens(end)))[0]
    beginning = text_ids(tokenizer, before)
    if {end, tokenizer.eos_token_id} & set(beginning):
        raise UserError(
            f"task.chat_template must not end an answer before it begins; this template begins it with {before!r}"
        )
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
    """Return the text that an answer adds to its prompt.

    Raises:
        UserError: the text of the conversation does not begin with its prompt.
    """
    if not whole.startswith(prompt):
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise UserError(
            "task.chat_template must render a prompt as the beginning of the whole conversation, so that the rest is "
            f"the answer to learn; this template ends the prompt with {prompt[max(same - 20, 0) :]!r}, but the "
            f"conversation continues with {whole[max(same - 20, 0) : same + 20]!r}"
        )
    return whole[len(prompt) :]


def _end(tokenizer: PreTrainedTokenizerBase, after: str) -> int | None:
    """Return the first token of a text that is special or was added to the tokenizer's vocabulary; None without one."""
    added = (i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip())
    candidates = {*tokenizer.all_special_ids, *added}
    return next((token for token in text_ids(tokenizer, after) if token in candidates), None)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special: Collection[str] | None) -> str:
    """Return the text of tokens, with only these special tokens; with all of them for None."""
    if special:
        others = {i for i in tokenizer.all_special_ids if tokenizer.convert_ids_to_tokens(i) not in special}
        ids, special = [i for i in ids if i not in others], None
    text = tokenizer.decode(list(ids), skip_special_tokens=special is not None, clean_up_tokenization_spaces=False)
    return str(text)
