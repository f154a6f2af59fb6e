"""The examples and suites of a plug-in task are checked before a run starts, and each score of an answer at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from gmt.errors import UserError
from gmt.runs.calibration import calibration_prompts
from gmt.runs.plug_in_calls import suites_of, train_examples
from gmt.tasks.protocol import Conversation, Example, Preference, Score, Suite
from gmt.tasks.reasoning_gym import Family
from gmt.tasks.returned_values import answer_score, checked_score

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@dataclass(frozen=True, kw_only=True)
class Returning:
    """A task that returns what the test gives it."""

    examples: Any = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    is_preference: bool = False

    def train_examples(self) -> Any:
        return self.examples

    def suites(self) -> dict[str, dict[str, Suite]]:
        right = {"name": "s", "prompts": ["1", "2"], "score": lambda index, text: 1.0, "max_new_tokens": 3}
        return {"target": {"t": Suite(**right | self.changes)}, "source": {"s": Suite(**right)}}


def test_right_values_pass() -> None:
    for task in (
        Returning(examples=[Example(prompt="a", completion="b")]),
        Returning(examples=[Conversation(messages=TURNS)], chat_template="tokenizer"),
        Returning(examples=[Preference(prompt="a", chosen="b", rejected="c")], is_preference=True),
        Returning(
            examples=[Preference(prompt=TURNS[:1], chosen="b", rejected="c")],
            is_preference=True,
            chat_template="tokenizer",
        ),
    ):
        assert list(train_examples(task)) == task.examples  # type: ignore[arg-type]
    for changes in ({}, {"prompts": ("1", "2"), "answers": ["1", "2"], "expected": ["1", "2"]}):
        assert set(suites_of(Returning(changes=changes))) == {"target", "source"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("examples", "sentence"),
    [
        ([{"prompt": "a", "completion": "b"}], "Example, Conversation or Preference objects from"),
        ([Example(prompt="a", completion=3)], "completions that are texts from"),  # type: ignore[arg-type]
        ([Example(prompt=b"a", completion="b")], "prompts that are texts if chat_template"),  # type: ignore[arg-type]
        ([Example(prompt="\ud800", completion="b")], "prompts that are texts if chat_template is None from"),
        (
            [Preference(prompt="a", chosen="b", rejected="c")],
            "Preference objects if is_preference is True, and no others",
        ),
        (
            [Example(prompt="a", completion="b"), Conversation(messages=TURNS)],
            "prompts that are texts if chat_template",
        ),
    ],
)
def test_a_wrong_training_example_is_refused(examples: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^task: class .*\.Returning must return {sentence}"):
        train_examples(Returning(examples=examples))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (Example(prompt="a", completion="b"), "Conversation objects if there is a chat_template from"),
        (Conversation(messages=[]), "messages, each with a role and a content"),
        (Conversation(messages=TURNS[:1]), "conversations with a turn of the assistant from"),
        (Conversation(messages=[{"role": "user"}]), "messages, each with a role and a content"),
    ],
)
def test_an_example_that_would_be_read_without_the_template_is_refused(example: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=f"must return {sentence}"):
        train_examples(Returning(examples=[example], chat_template="tokenizer"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": "abc"}, "prompts must be a list of at least one text, got 'abc'"),
        ({"prompts": []}, r"prompts must be a list of at least one text, got \[\]"),
        ({"prompts": (str(i) for i in range(2))}, "prompts must be a list of at least one text, got <generator"),
        ({"prompts": [1, 2]}, "prompts must be texts, got 1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number of at least 1, got 2.5"),
        ({"max_new_tokens": "3"}, "max_new_tokens must be a whole number of at least 1, got '3'"),
        ({"answers": "12"}, "answers must be None or a text for each of the 2 prompts, got '12'"),
        ({"answers": ["1"]}, "answers must be None or a text for each of the 2 prompts"),
        ({"expected": [1, 2]}, "expected must be None or a text for each of the 2 prompts"),
        ({"score": 1}, "score must be a function of the index and the answer, got 1"),
    ],
)
def test_a_wrong_suite_is_refused_by_its_name(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^task\.target\.t: {sentence}"):
        suites_of(Returning(changes=changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "1", math.nan, math.inf, -1, 2, [1], 1j])
def test_an_answers_score_outside_of_0_and_1_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"^score must return a number in \[0, 1\], got "):
        answer_score(lambda index, text: value, 0, "an answer")


@pytest.mark.parametrize("value", [0, 1, 0.25, True, np.float32(0.25), np.int64(1), np.bool_(True)])
def test_an_answers_score_becomes_a_float(value: Any) -> None:
    result = answer_score(lambda index, text: value, 0, "an answer")
    assert (type(result), result) == (float, float(value))


@pytest.mark.parametrize(
    ("metric", "value", "sentence"),
    [
        ("word_perplexity", 0.0, "a perplexity above 0, got 0.0"),
        ("perplexity", -3, "a perplexity above 0, got -3.0"),
        ("nll", -1.0, "at least 0 as nll, got -1.0"),
        ("kl", -0.5, "at least 0 as kl, got -0.5"),
    ],
)
def test_a_measure_that_no_model_can_have_is_refused(metric: str, value: float, sentence: str) -> None:
    with pytest.raises(UserError, match=f"must return {sentence}$"):
        checked_score(Score(metric=metric, value=value, answers=[]), is_score=False)


@pytest.mark.parametrize(("metric", "value"), [("perplexity", math.nan), ("perplexity", 1), ("kl", -1e-9), ("nll", 0)])
def test_a_measure_that_is_no_score_may_be_any_that_a_model_can_have(metric: str, value: float) -> None:
    assert type(checked_score(Score(metric=metric, value=value, answers=()), is_score=False).value) is float


@pytest.mark.parametrize("further", ["abc", [1], None])
def test_further_prompts_that_are_no_texts_are_refused(further: Any) -> None:
    suites = suites_of(Returning(changes={}))  # type: ignore[arg-type]
    suite = replace(suites["source"]["s"], further_prompts=lambda: further)  # type: ignore[type-var]
    with pytest.raises(UserError, match=r"^task\.source\.s: further_prompts\(\) must return a list of texts, got "):
        calibration_prompts({**suites, "source": {"s": suite}})  # type: ignore[dict-item]


def test_a_credit_that_exceeds_1_by_rounding_is_no_exact_match_and_no_fault() -> None:
    """spell_backward adds 1 / 10 for each right letter, so a longer answer whose first letters are right has this."""
    entry = {"family": "spell_backward", "num_examples": 60, "settings": {"min_word_len": 4, "max_word_len": 20}}
    suite = Family(**entry, data_seed=0, max_new_tokens=4, distinct=False).suite("words")
    assert suite.answers is not None
    scores = [answer_score(suite.score, i, f"{answer}x") for i, answer in enumerate(suite.answers)]
    assert max(scores) > 1
    assert 1.0 not in scores
