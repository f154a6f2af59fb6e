"""Questions with one right answer each, from a dataset of the hub or from the user's files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gmt import settings
from gmt.errors import UserError, for_each, together
from gmt.tasks.answers import TooSlow, find_answer
from gmt.tasks.columns import Row, check_columns, check_placeholder, drawn_rows, source_of_rows
from gmt.tasks.protocol import Suite
from gmt.used_files import UsedFiles

_COLUMN_SETS = (frozenset({"prompt", "answer"}), frozenset({"messages"}))


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Questions of a dataset with one right answer each, asked by greedy generation.

    Args:
        data: the dataset: path, subset, revision, split, num_examples and seed, see gmt.tasks.dataset.DatasetTask.
        columns: the names of the columns: {prompt, answer}, or {messages} with a user's turn and an answer in each row.
        prompt_template: a text in which {prompt} stands for the prompt.
        answer_pattern: a regular expression whose last match is the answer, in the model's text and in the column: the
            first group that takes part in the match, or all of the match; null for the whole text without outer blanks.
        max_new_tokens: the most tokens of an answer.

    Raises:
        UserError: a key of `data` is wrong or its path does not exist, the columns are none of these sets, or the
            pattern is invalid. Rows are read only later.
    """

    name_in_ids: ClassVar[str] = "gmt.tasks.dataset.HeldOut"  # its path when the first run ids were computed

    data: Mapping[str, Any]
    columns: Mapping[str, str]
    prompt_template: str
    answer_pattern: str | None
    max_new_tokens: int

    def __post_init__(self) -> None:
        together(
            lambda: source_of_rows("data", self.data),
            lambda: settings.integer("max_new_tokens", self.max_new_tokens, low=1),
            lambda: check_columns("columns", self.columns, _COLUMN_SETS),
            lambda: check_placeholder("prompt_template", "prompt", self.prompt_template),
            self._check_pattern,
        )

    def _check_pattern(self) -> None:
        if self.answer_pattern is None:
            return
        try:
            re.compile(settings.text("answer_pattern", self.answer_pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(
                f"answer_pattern must be a regular expression, got {self.answer_pattern!r} ({error})"
            ) from error

    def fingerprint(self) -> str:
        """Return the fingerprint of the data."""
        return source_of_rows("data", self.data).fingerprint()

    def used_files(self) -> dict[str, UsedFiles]:
        """Return the files of the data."""
        return {"data": source_of_rows("data", self.data).used_files()}

    def suite(self, name: str) -> Suite:
        """Return the questions as a suite."""
        questions = self._drawn(self.data)
        answers = [answer for _, answer in questions]

        def score(index: int, text: str) -> float:
            try:
                return float(self._answer(text) == answers[index])
            except TooSlow as error:
                raise UserError(error.sentence) from error

        def further_prompts() -> list[str]:
            num_rows = len(source_of_rows("data", self.data).rows())
            twice_as_many = {**self.data, "num_examples": min(2 * len(questions), num_rows)}
            return [prompt for prompt, _ in self._drawn(twice_as_many)]

        prompts = [prompt for prompt, _ in questions]
        return Suite(
            name=name,
            prompts=prompts,
            score=score,
            max_new_tokens=self.max_new_tokens,
            further_prompts=further_prompts,
            answers=self._whole_answers(questions),
            expected=answers,
        )

    def _whole_answers(self, questions: Sequence[tuple[str, str]]) -> list[str] | None:
        """Return the answers as they follow their prompts, after a blank; None if a pattern cuts them out of a text."""
        if self.answer_pattern is not None:
            return None
        return [answer if prompt[-1:].isspace() else f" {answer}" for prompt, answer in questions]

    def _drawn(self, data: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return prompts, formatted by the template, each with its right answer."""
        try:
            questions = for_each(drawn_rows("data", data, self.columns.values(), "columns"), self._question)
        except TooSlow as error:  # stops at the first row, since each further row would take seconds too
            raise UserError(error.sentence) from error
        return [(self.prompt_template.replace("{prompt}", prompt), answer) for prompt, answer in questions]

    def _question(self, row: Row) -> tuple[str, str]:
        """Return the prompt and the right answer in a row."""
        if "messages" in self.columns:
            turns = row.turns(self.columns["messages"])
            if [turn["role"] for turn in turns] != ["user", "assistant"]:
                raise UserError(f"{row.where} must hold a user's turn and an answer, and no other turn")
            prompt, text = (turn["content"] for turn in turns)
        else:
            prompt, text = (row.text(self.columns[name]) for name in ("prompt", "answer"))
        if not (answer := self._answer(text)):
            raise UserError(
                f"{row.where} must hold an answer that answer_pattern {self.answer_pattern!r} finds, got {text[:60]!r}"
            )
        return prompt, answer

    def _answer(self, text: str) -> str | None:
        if self.answer_pattern is None:
            return text.strip()
        return find_answer(self.answer_pattern, text)
