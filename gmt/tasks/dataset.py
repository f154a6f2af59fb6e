"""Tasks from a dataset of the hub or from the user's files, with named columns or chat messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gmt.errors import UserError, for_each, together
from gmt.tasks.chat import check_template, template_fingerprint
from gmt.tasks.columns import Row, check_columns, check_placeholder, drawn_rows, message, source_of_rows
from gmt.tasks.evaluations import Evaluation, check_evaluations, fingerprints, make_suites, used_files
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
        name: the name of the task in tables.
        data: the keys path, subset, revision, split (see gmt.tasks.rows.Source); num_examples, how many rows to draw by
            the seed, or null for all; seed.
        columns: the names of the columns: {prompt, completion}, {messages}, {prompt, chosen, rejected} or {chosen,
            rejected}; messages are lists of {role, content}, and chosen and rejected may be such lists.
        prompt_template: a text in which {prompt} stands for the prompt.
        completion_template: a text in which {completion} stands for the completion, or for either of two answers. A
            blank between prompt and completion belongs here: after "Answer:" a model says " 4", and a blank at the end
            of the prompt would change these tokens.
        chat_template: null for plain prompts; `tokenizer`, a file, or a template in this package: a prompt is then a
            user's turn, and a completion the assistant's.
        target: evaluations of the trained skill, by name, each with a `_target_`.
        source: evaluations of skills that the base has before the training, in the same form; they measure forgetting.

    Raises:
        UserError: a key of `data` is wrong or its path does not exist, the columns are none of these sets, a template
            is invalid, or there is no evaluation. Rows are read only later.
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
            lambda: source_of_rows("task.data", self.data),
            lambda: check_columns("task.columns", self.columns, _KINDS),
            lambda: check_placeholder("task.prompt_template", "prompt", self.prompt_template),
            lambda: check_placeholder("task.completion_template", "completion", self.completion_template),
            lambda: check_template(self.chat_template),
            self._check_turns,
            lambda: check_evaluations("task.target", self.target),
            lambda: check_evaluations("task.source", self.source),
        )

    def _check_turns(self) -> None:
        if self.chat_template is None and isinstance(self.columns, Mapping) and "messages" in self.columns:
            raise UserError("task.chat_template must not be null where task.columns names messages")

    @property
    def is_preference(self) -> bool:
        """Whether each row holds two answers, of which one is preferred."""
        return "rejected" in self.columns

    def fingerprint(self) -> str:
        """Return the fingerprints of the data, the chat template, and the evaluations."""
        data = source_of_rows("task.data", self.data).fingerprint()
        return "; ".join([data, template_fingerprint(self.chat_template), fingerprints(self.target, self.source)])

    def used_files(self) -> dict[str, UsedFiles]:
        """Return the files of the data and of the evaluations."""
        return {"data": source_of_rows("task.data", self.data).used_files(), **used_files(self.target, self.source)}

    def train_examples(self) -> list[TrainExample]:
        """Return the training examples, without those whose prompt a target suite asks."""
        make: Callable[[Row], TrainExample] = {
            "examples": self._example,
            "conversations": self._conversation,
            "preferences": self._preference,
        }[_KINDS[frozenset(self.columns)]]
        examples = for_each(drawn_rows("task.data", self.data, self.columns.values(), "task.columns"), make)
        suites = [suite for suite in self.suites()["target"].values() if isinstance(suite, Suite)]
        target_prompts = {prompt for suite in suites for prompt in suite.prompts}
        return [example for example in examples if _prompt_of(example) not in target_prompts]

    def suites(self) -> dict[str, dict[str, Suite | Benchmark]]:
        """Return the suites and benchmarks, by part and name."""
        target, source = together(
            lambda: make_suites("task.target", self.target), lambda: make_suites("task.source", self.source)
        )
        return {"target": target, "source": source}

    def _example(self, row: Row) -> TrainExample:
        prompt = self._prompt(row.text(self.columns["prompt"]))
        completion = self._completion(row.text(self.columns["completion"]))
        example = Example(prompt=prompt, completion=completion, origin=row.where)
        return example if self.chat_template is None else example.as_turns()

    def _conversation(self, row: Row) -> TrainExample:
        messages = row.turns(self.columns["messages"])
        if not any(turn["role"] == "assistant" for turn in messages):
            raise UserError(f"{row.where} must hold an assistant's turn, since only such turns are learnt")
        return Conversation(messages=messages, origin=row.where)

    def _preference(self, row: Row) -> TrainExample:
        chosen, rejected = (self._answered_turns(row, name) for name in ("chosen", "rejected"))
        if chosen[:-1] != rejected[:-1]:
            raise UserError(
                f"{row.where} must hold the same turns before the last answer in columns {self.columns['chosen']!r} "
                f"and {self.columns['rejected']!r}, since DPO compares only the last answers"
            )
        answers = {
            n: self._completion(turns[-1]["content"]) for n, turns in (("chosen", chosen), ("rejected", rejected))
        }
        turns = self._turns_before_answers(row, chosen[:-1])
        if self.chat_template is None:
            if len(turns) > 1 or turns[-1]["role"] != "user":
                raise UserError(f"{row.where} holds several turns before the answers, which need task.chat_template")
            return Preference(prompt=turns[-1]["content"], origin=row.where, **answers)
        return Preference(prompt=turns, origin=row.where, **answers)

    def _answered_turns(self, row: Row, name: str) -> list[Message]:
        """Return the turns in the column `chosen` or `rejected`; the last is the answer, and a text is one answer."""
        column = self.columns[name]
        value = row.values.get(column)
        is_text = isinstance(value, str) or not value
        turns = [message("assistant", row.unicode(value or ""))] if is_text else row.turns(column)
        if turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
            raise UserError(f"{row.where} must hold a {name} answer in column {column!r}, but has none")
        return turns

    def _turns_before_answers(self, row: Row, shared: list[Message]) -> list[Message]:
        """Return the turns before the answers: those of the prompt's column, and those that precede both answers.

        Args:
            row: the row.
            shared: the turns that precede both answers; they may repeat those of the prompt's column.
        """
        column = self.columns.get("prompt")
        value = row.values.get(column) if column is not None else None
        prompt: list[Message] = []
        if column is not None:
            prompt = row.turns(column) if isinstance(value, list) else [message("user", row.text(column))]
        if shared[: len(prompt)] == prompt:  # the conversations repeat the prompt's column
            prompt = []
        elif shared and not isinstance(value, list):
            user_texts = [turn["content"].strip() for turn in shared if turn["role"] == "user"]
            if prompt[0]["content"].strip() not in user_texts:
                raise UserError(
                    f"{row.where} must hold in column {column!r} the text of a user's turn in column "
                    f"{self.columns['chosen']!r}; set task.columns.prompt=null to leave out the column"
                )
            prompt = []
        turns = [*prompt, *shared]
        if not turns or turns[-1]["role"] != "user":
            raise UserError(f"{row.where} must hold a user's turn before the last answer, but does not")
        return [*turns[:-1], message("user", self._prompt(turns[-1]["content"]))]

    def _prompt(self, text: str) -> str:
        return self.prompt_template.replace("{prompt}", text)

    def _completion(self, text: str) -> str:
        return self.completion_template.replace("{completion}", text)


def _prompt_of(example: TrainExample) -> str | None:
    if isinstance(example, Conversation):
        return next((m["content"] for m in example.messages if m["role"] == "user"), None)
    return example.prompt if isinstance(example.prompt, str) else example.prompt[-1]["content"]
