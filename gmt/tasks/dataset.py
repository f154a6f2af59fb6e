"""Tasks from a dataset: of the hub, or the user's own files, with named columns or chat messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gmt.errors import UserError, for_each, together
from gmt.tasks.chat import check_template, template_fingerprint
from gmt.tasks.columns import Row, check_columns, check_placeholder, drawn, message, origin
from gmt.tasks.evaluations import Evaluation, built, fingerprints, made, used_files
from gmt.tasks.held_out import HeldOut as HeldOut  # the configs of older studies name it here
from gmt.tasks.protocol import Benchmark, Conversation, Example, Message, Preference, Suite, TrainExample
from gmt.used_files import UsedFiles

_KINDS = {
    frozenset({"prompt", "completion"}): "examples",
    frozenset({"messages"}): "conversations",
    frozenset({"prompt", "chosen", "rejected"}): "preferences",
    frozenset({"chosen", "rejected"}): "preferences",
}


@dataclass(frozen=True, kw_only=True)
class DatasetTask:
    """Trains on the rows of a dataset.

    Args:
        name: the word for it in tables.
        data: path, subset, revision, split (see gmt.tasks.rows.Source); num_examples, of the rows as the seed shuffles
            them, or null for all; seed.
        columns: which column holds what: {prompt, completion}, {messages}, {prompt, chosen, rejected} or {chosen,
            rejected}; messages, and chosen and rejected where they hold turns, are lists of {role, content}.
        prompt_template: a text in which {prompt} stands for the prompt.
        completion_template: a text in which {completion} stands for the completion, or either of two answers: where a
            benchmark asks "Answer:", a model says " 4", and a blank that ends the prompt would make other tokens of it.
        chat_template: null for plain prompts; `tokenizer`, a file, or one that ships inside: prompts are then a user's
            turn, and completions the assistant's.
        target: what is to be learnt: evaluations by name, each a `_target_`.
        source: likewise: what the base could do before; forgetting is measured in it.

    Raises:
        UserError: data that can't be had, columns of no known kind, a template that is none, no evaluation.
    """

    name: str
    data: Mapping[str, Any]
    columns: Mapping[str, str]
    prompt_template: str
    completion_template: str
    chat_template: str | None
    target: Mapping[str, Evaluation]
    source: Mapping[str, Evaluation]

    def __post_init__(self) -> None:
        together(
            lambda: origin("task.data", self.data),
            lambda: check_columns("task.columns", self.columns, _KINDS),
            lambda: check_placeholder("task.prompt_template", "prompt", self.prompt_template),
            lambda: check_placeholder("task.completion_template", "completion", self.completion_template),
            lambda: check_template(self.chat_template),
            self._check_turns,
            lambda: built("task.target", self.target),
            lambda: built("task.source", self.source),
        )

    def _check_turns(self) -> None:
        if self.chat_template is None and isinstance(self.columns, Mapping) and "messages" in self.columns:
            raise UserError("task.chat_template must not be null where task.columns names messages")

    @property
    def is_preference(self) -> bool:
        """Whether its columns hold two answers each."""
        return "rejected" in self.columns

    def fingerprint(self) -> str:
        """Of the data, the chat template, and what is asked."""
        data = origin("task.data", self.data).fingerprint()
        return "; ".join([data, template_fingerprint(self.chat_template), fingerprints(self.target, self.source)])

    def used_files(self) -> dict[str, UsedFiles]:
        """Those of the data, and of what is asked."""
        return {"data": origin("task.data", self.data).used_files(), **used_files(self.target, self.source)}

    def train_examples(self) -> list[TrainExample]:
        """The training examples; one that asks what a target suite asks is left out."""
        make: Callable[[Row], TrainExample] = {
            "examples": self._example,
            "conversations": self._conversation,
            "preferences": self._preference,
        }[_KINDS[frozenset(self.columns)]]
        examples = for_each(drawn("task.data", self.data, self.columns.values(), "task.columns"), make)
        suites = [suite for suite in self.suites()["target"].values() if isinstance(suite, Suite)]
        asked = {prompt for suite in suites for prompt in suite.prompts}
        return [example for example in examples if _asks(example) not in asked]

    def suites(self) -> dict[str, dict[str, Suite | Benchmark]]:
        """What is evaluated."""
        target, source = together(lambda: made("task.target", self.target), lambda: made("task.source", self.source))
        return {"target": target, "source": source}

    def _example(self, row: Row) -> TrainExample:
        prompt = self._prompt(row.text(self.columns["prompt"]))
        completion = self._completion(row.text(self.columns["completion"]))
        example = Example(prompt=prompt, completion=completion, origin=row.where)
        return example if self.chat_template is None else example.as_turns()

    def _conversation(self, row: Row) -> TrainExample:
        messages = row.turns(self.columns["messages"])
        if not any(turn["role"] == "assistant" for turn in messages):
            raise UserError(f"{row.where} must hold an assistant's turn, of which to learn")
        return Conversation(messages=messages, origin=row.where)

    def _preference(self, row: Row) -> TrainExample:
        chosen, rejected = (self._judged(row, name) for name in ("chosen", "rejected"))
        if chosen[:-1] != rejected[:-1]:
            raise UserError(
                f"{row.where} must hold the same turns before the last answer in columns {self.columns['chosen']!r} "
                f"and {self.columns['rejected']!r}, and does not: one answer is learnt of a row"
            )
        answers = {
            n: self._completion(turns[-1]["content"]) for n, turns in (("chosen", chosen), ("rejected", rejected))
        }
        turns = self._before(row, chosen[:-1])
        if self.chat_template is None:
            if len(turns) > 1 or turns[-1]["role"] != "user":
                raise UserError(f"{row.where} holds several turns before the answers, which need task.chat_template")
            return Preference(prompt=turns[-1]["content"], origin=row.where, **answers)
        return Preference(prompt=turns, origin=row.where, **answers)

    def _judged(self, row: Row, name: str) -> list[Message]:
        """A conversation that ends in an answer; of a text that answer alone."""
        column = self.columns[name]
        value = row.values.get(column)
        is_text = isinstance(value, str) or not value
        turns = [message("assistant", row.unicode(value or ""))] if is_text else row.turns(column)
        if turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
            raise UserError(f"{row.where} must hold a {name} answer in column {column!r}, and has none")
        return turns

    def _before(self, row: Row, shared: list[Message]) -> list[Message]:
        """The turns that ask: those of the prompt's column and those that both answers have before them."""
        column = self.columns.get("prompt")
        value = row.values.get(column) if column is not None else None
        asking: list[Message] = []
        if column is not None:
            asking = row.turns(column) if isinstance(value, list) else [message("user", row.text(column))]
        if shared[: len(asking)] == asking:  # a conversation says its question again
            asking = []
        elif shared and not isinstance(value, list):
            if asking[0]["content"].strip() not in [
                turn["content"].strip() for turn in shared if turn["role"] == "user"
            ]:
                raise UserError(
                    f"{row.where} must hold in column {column!r} what a user's turn of {self.columns['chosen']!r} "
                    "says; task.columns.prompt=null leaves the column out"
                )
            asking = []
        turns = [*asking, *shared]
        if not turns or turns[-1]["role"] != "user":
            raise UserError(f"{row.where} must hold a user's turn before the last answer, and does not")
        return [*turns[:-1], message("user", self._prompt(turns[-1]["content"]))]

    def _prompt(self, text: str) -> str:
        return self.prompt_template.replace("{prompt}", text)

    def _completion(self, text: str) -> str:
        return self.completion_template.replace("{completion}", text)


def _asks(example: TrainExample) -> str | None:
    if isinstance(example, Conversation):
        return next((m["content"] for m in example.messages if m["role"] == "user"), None)
    return example.prompt if isinstance(example.prompt, str) else example.prompt[-1]["content"]
