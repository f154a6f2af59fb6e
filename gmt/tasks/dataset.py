"""Tasks from a dataset: of the hub, or the user's own files, with named columns or chat messages."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmt import settings
from gmt.errors import UserError
from gmt.tasks.chat import check_template, template_fingerprint
from gmt.tasks.evaluations import Evaluation, built, fingerprints, made
from gmt.tasks.protocol import Benchmark, Conversation, Example, Message, Preference, Suite, TrainExample
from gmt.tasks.rows import Source

_DATA_KEYS = {"path", "subset", "revision", "split", "num_examples", "seed"}
_KINDS = {
    frozenset({"prompt", "completion"}): "examples",
    frozenset({"messages"}): "conversations",
    frozenset({"prompt", "chosen", "rejected"}): "preferences",
}
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class DatasetTask:
    """Trains on the rows of a dataset.

    Args:
        name: the word for it in tables.
        data: path, subset, revision, split (see gmt.tasks.rows.Source); num_examples, of the rows as the seed shuffles
            them, or null for all; seed.
        columns: which column holds what: {prompt, completion}, {messages} or {prompt, chosen, rejected}; messages, and
            chosen and rejected where they hold turns, are lists of {role, content}.
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
        settings.text("task.name", self.name)
        origin("task.data", self.data)
        if frozenset(self.columns) not in _KINDS:
            kinds = " or ".join("{" + ", ".join(sorted(kind)) + "}" for kind in _KINDS)
            raise UserError(f"task.columns must name {kinds}, got {{{', '.join(sorted(self.columns))}}}")
        for what in ("prompt", "completion"):
            _check_template(f"task.{what}_template", what, getattr(self, f"{what}_template"))
        check_template(self.chat_template)
        if "messages" in self.columns and self.chat_template is None:
            raise UserError("task.chat_template must not be null where task.columns names messages")
        built("task.target", self.target)
        built("task.source", self.source)

    @property
    def is_preference(self) -> bool:
        """Whether its columns hold two answers each."""
        return "rejected" in self.columns

    def fingerprint(self) -> str:
        """Of the data, the chat template, and what is asked."""
        data = origin("task.data", self.data).fingerprint()
        return "; ".join([data, template_fingerprint(self.chat_template), fingerprints(self.target, self.source)])

    def train_examples(self) -> list[TrainExample]:
        """The training examples; one that asks what a target suite asks is left out."""
        rows = _drawn("task.data", self.data)
        where = f"task.columns: {self.data['path']}"
        _check_columns(where, rows, self.columns.values())
        make: Callable[[Mapping[str, Any], str], TrainExample] = {
            "examples": self._example,
            "conversations": self._conversation,
            "preferences": self._preference,
        }[_KINDS[frozenset(self.columns)]]
        examples = [make(row, f"{where}, row {number}") for number, row in enumerate(rows, start=1)]
        suites = [suite for suite in self.suites()["target"].values() if isinstance(suite, Suite)]
        asked = {prompt for suite in suites for prompt in suite.prompts}
        return [example for example in examples if _asks(example) not in asked]

    def suites(self) -> dict[str, dict[str, Suite | Benchmark]]:
        """What is evaluated."""
        return {"target": made("task.target", self.target), "source": made("task.source", self.source)}

    def _example(self, row: Mapping[str, Any], where: str) -> TrainExample:
        prompt = self._prompt(_text(row, self.columns["prompt"], where))
        completion = self._completion(_text(row, self.columns["completion"], where))
        if self.chat_template is None:
            return Example(prompt=prompt, completion=completion)
        return Conversation(messages=[_turn("user", prompt), _turn("assistant", completion)])

    def _conversation(self, row: Mapping[str, Any], where: str) -> TrainExample:
        messages = _turns(row.get(self.columns["messages"]), where)
        if not any(message["role"] == "assistant" for message in messages):
            raise UserError(f"{where} must hold an assistant's turn, of which to learn")
        return Conversation(messages=messages)

    def _preference(self, row: Mapping[str, Any], where: str) -> TrainExample:
        answers = []
        for name in ("chosen", "rejected"):
            value = row.get(self.columns[name])
            is_text = isinstance(value, str) or not value
            last = _turn("assistant", _unicode(value or "", where)) if is_text else _turns(value, where)[-1]
            if last["role"] != "assistant" or not last["content"].strip():
                raise UserError(f"{where} must hold a {name} answer in column {self.columns[name]!r}, and has none")
            answers.append(self._completion(last["content"]))
        prompt: str | list[Message] = self._prompt(_text(row, self.columns["prompt"], where))
        if self.chat_template is not None:
            prompt = [_turn("user", str(prompt))]
        return Preference(prompt=prompt, chosen=answers[0], rejected=answers[1])

    def _prompt(self, text: str) -> str:
        return self.prompt_template.replace("{prompt}", text)

    def _completion(self, text: str) -> str:
        return self.completion_template.replace("{completion}", text)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Questions of a dataset with one right answer each, asked by greedy generation.

    Args:
        data: as of a DatasetTask.
        columns: which column holds what: {prompt, answer}.
        prompt_template: a text in which {prompt} stands for the prompt.
        answer_pattern: a regular expression whose last match, or its first group, is the answer in what the model says
            and in the column; null for the whole text without blanks around it.
        max_new_tokens: how many tokens an answer may take.

    Raises:
        UserError: data that can't be had, other columns, a pattern that is none.
    """

    data: Mapping[str, Any]
    columns: Mapping[str, str]
    prompt_template: str
    answer_pattern: str | None
    max_new_tokens: int

    def __post_init__(self) -> None:
        origin("data", self.data)
        settings.integer("max_new_tokens", self.max_new_tokens, low=1)
        if set(self.columns) != {"prompt", "answer"}:
            raise UserError(f"columns must name {{answer, prompt}}, got {{{', '.join(sorted(self.columns))}}}")
        _check_template("prompt_template", "prompt", self.prompt_template)
        try:
            re.compile(self.answer_pattern or "")
        except re.error as error:
            raise UserError(f"answer_pattern must be a regular expression, got {self.answer_pattern!r}") from error

    def fingerprint(self) -> str:
        """Of the data."""
        return origin("data", self.data).fingerprint()

    def suite(self, name: str) -> Suite:
        """The questions."""
        rows = _drawn("data", self.data)
        where = f"columns: {self.data['path']}"
        _check_columns(where, rows, self.columns.values())
        texts = {
            kind: [_text(row, column, f"{where}, row {i}") for i, row in enumerate(rows, start=1)]
            for kind, column in self.columns.items()
        }
        answers = [self._answer(text) for text in texts["answer"]]
        if None in answers:
            number = answers.index(None) + 1
            raise UserError(
                f"answer_pattern must find an answer in each row of {self.data['path']}, and {self.answer_pattern!r} "
                f"finds none in row {number}: {texts['answer'][number - 1][:60]!r}"
            )
        prompts = [self.prompt_template.replace("{prompt}", text) for text in texts["prompt"]]

        def score(index: int, text: str) -> float:
            return float(self._answer(text) == answers[index])

        return Suite(name=name, prompts=prompts, score=score, max_new_tokens=self.max_new_tokens)

    def _answer(self, text: str) -> str | None:
        if self.answer_pattern is None:
            return text.strip()
        found = list(re.finditer(self.answer_pattern, text))
        return found[-1].group(1 if found[-1].re.groups else 0).strip() if found else None


def origin(setting: str, data: Mapping[str, Any]) -> Source:
    """Where the rows come from.

    Raises:
        UserError: a key is missing or unknown, or a value is wrong.
    """
    if not isinstance(data, Mapping) or set(data) != _DATA_KEYS:
        got = sorted(data) if isinstance(data, Mapping) else data
        raise UserError(f"{setting} must hold exactly {', '.join(sorted(_DATA_KEYS))}, got {got}")
    settings.integer(f"{setting}.seed", data["seed"], low=0)
    if data["num_examples"] is not None:
        settings.integer(f"{setting}.num_examples", data["num_examples"], low=1)
    where = {key: data[key] for key in ("path", "subset", "revision", "split")}
    return Source(setting=setting, **where)


def texts_of(setting: str, data: Mapping[str, Any], column: str) -> list[str]:
    """The texts in a column.

    Raises:
        UserError: there is no such column, or a row has no text in it.
    """
    rows, where = _drawn(setting, data), f"{setting}: {data['path']}"
    _check_columns(where, rows, [column])
    return [_text(row, column, f"{where}, row {number}") for number, row in enumerate(rows, start=1)]


def _drawn(setting: str, data: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """All rows in their order, or as many as are asked for of the shuffled ones."""
    rows = origin(setting, data).rows()
    number = data["num_examples"]
    if number is None:
        return rows
    if number > len(rows):
        raise UserError(f"{setting}.num_examples must be at most {len(rows)}, the rows that there are, got {number}")
    return [rows[i] for i in random.Random(data["seed"]).sample(range(len(rows)), number)]


def _check_columns(where: str, rows: Sequence[Mapping[str, Any]], wanted: Any) -> None:
    if missing := [column for column in wanted if column not in rows[0]]:
        raise UserError(f"{where} has no column {', '.join(missing)}; it has {', '.join(rows[0])}")


def _check_template(setting: str, what: str, template: object) -> None:
    if f"{{{what}}}" not in settings.text(setting, template):
        raise UserError(f"{setting} must hold {{{what}}}, got {template!r}")


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} must hold a text in column {column!r}, got {value!r}")
    return _unicode(value, where)


def _unicode(text: str, where: str) -> str:
    """JSON may hold half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} must hold Unicode text, and has a lone surrogate at character {error.start}"
        ) from error
    return text


def _turns(value: Any, where: str) -> list[Message]:
    if not isinstance(value, Sequence) or not value or not all(isinstance(turn, Mapping) for turn in value):
        raise UserError(f"{where} must hold a list of turns, each with role and content, got {str(value)[:60]!r}")
    for turn in value:
        if turn.get("role") not in _ROLES or not isinstance(turn.get("content"), str):
            raise UserError(
                f"{where} must hold turns with a role of {', '.join(_ROLES)} and a content, got {dict(turn)}"
            )
    return [_turn(turn["role"], _unicode(turn["content"], where)) for turn in value]


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _asks(example: TrainExample) -> str | None:
    if isinstance(example, Conversation):
        return next((m["content"] for m in example.messages if m["role"] == "user"), None)
    return example.prompt if isinstance(example.prompt, str) else example.prompt[-1]["content"]
