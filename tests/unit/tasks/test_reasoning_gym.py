"""Generated tasks: the same questions from the same seed, and none of the target's in training."""

from typing import Any

import pytest

from gmt.errors import UserError
from gmt.tasks.reasoning_gym import ReasoningGymTask

SMALL_SUMS = {
    "family": "basic_arithmetic",
    "num_examples": 60,
    "settings": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "operators": ["+"]},
}


def task(**changes: Any) -> ReasoningGymTask:
    settings = {"name": "t", "data_seed": 0, "chat_template": None, "max_new_tokens": 4}
    mixtures = {part: {"sums": SMALL_SUMS} for part in ("train", "target", "source")}
    return ReasoningGymTask(**(settings | mixtures | changes))


def test_no_question_of_the_target_is_trained_on() -> None:
    examples = task().train_examples()
    asked = set(task().suites()["target"]["sums"].prompts)
    assert examples
    assert not asked & {example.prompt for example in examples}


def test_the_seed_decides_every_question() -> None:
    assert task().train_examples() == task().train_examples()
    assert task().train_examples() != task(data_seed=10_000).train_examples()


def test_the_right_answer_scores_one_and_a_wrong_one_less() -> None:
    suite = task().suites()["source"]["sums"]
    question = suite.prompts[0]
    assert question.endswith("\n")
    scores = [suite.score(0, str(number)) for number in range(-40, 40)]
    assert scores.count(1.0) == 1


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (SMALL_SUMS | {"family": "basic_arithmetics"}, "did you mean 'basic_arithmetic'"),
        (SMALL_SUMS | {"settings": {"min_term": 2}}, "refuses"),
        (SMALL_SUMS | {"settings": {"min_terms": 5, "max_terms": 2}}, "refuses"),
    ],
)
def test_a_wrong_family_or_setting_is_named_when_it_is_loaded(entry: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        task(train={"sums": entry}).train_examples()
