"""Generated tasks: the same questions from the same seed, and none of the target's in training."""

import re
from collections.abc import Iterable
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


PLAIN = {**SMALL_SUMS["settings"], "allow_parentheses": False, "allow_negation": False}
PLAIN_SUMS = SMALL_SUMS | {"settings": PLAIN}  # of numbers from 0 to 10: 121 questions
THREE = {"family": "basic_arithmetic", "num_examples": 300, "settings": PLAIN | {"min_terms": 3, "max_terms": 3}}


def numbers_in(prompt: str) -> tuple[int, ...]:
    return tuple(sorted(int(word.rstrip(".")) for word in prompt.split() if word.rstrip(".").isdigit()))


def test_held_out_words_leave_no_permuted_twin_in_training() -> None:
    mixtures: Any = {"train": {"sums": THREE}, "target": {"sums": THREE | {"num_examples": 30}}}
    plain, apart = task(**mixtures), task(**mixtures, hold_out="words")
    asked = {numbers_in(prompt) for prompt in plain.suites()["target"]["sums"].prompts}
    assert asked & {numbers_in(example.prompt) for example in plain.train_examples()}
    examples = apart.train_examples()
    assert not asked & {numbers_in(example.prompt) for example in examples}
    assert 100 < len(examples) < len(plain.train_examples())


def test_held_out_numbers_leave_no_sum_in_other_words_in_training() -> None:
    natural = PLAIN_SUMS | {"settings": PLAIN | {"format_style": "natural"}, "num_examples": 300}
    mixtures: Any = {"train": {"sums": natural}, "target": {"sums": natural | {"num_examples": 20}}}
    by_words, by_numbers = task(**mixtures, hold_out="words"), task(**mixtures, hold_out="numbers")

    def sums(prompts: Iterable[str]) -> set[tuple[str, ...]]:
        return {tuple(sorted(re.findall(r"\d+", prompt))) for prompt in prompts}

    asked = sums(by_words.suites()["target"]["sums"].prompts)
    assert asked & sums(example.prompt for example in by_words.train_examples())
    examples = by_numbers.train_examples()
    assert not asked & sums(example.prompt for example in examples)
    assert 100 < len(examples) < len(by_words.train_examples())


def test_a_distinct_suite_asks_no_question_twice_and_names_a_family_that_is_too_small() -> None:
    prompts = task(distinct=True).suites()["source"]["sums"].prompts
    assert len(set(prompts)) == len(prompts) == 60
    many = task(distinct=True, source={"sums": PLAIN_SUMS | {"num_examples": 200}})
    with pytest.raises(UserError, match=r"task.source.sums.*num_examples must be at most 121, the number .* got 200"):
        many.suites()


def test_an_answer_that_is_written_backward_is_right_backward_alone() -> None:
    backward = task(
        source={"sums": SMALL_SUMS | {"answer": "backward"}}, train={"s": SMALL_SUMS | {"answer": "backward"}}
    )
    suite, plain = backward.suites()["source"]["sums"], task().suites()["source"]["sums"]
    assert suite.answers == [answer[::-1] for answer in plain.answers]
    i = next(i for i, answer in enumerate(plain.answers) if answer != answer[::-1])
    assert (suite.score(i, suite.answers[i]), suite.score(i, plain.answers[i]) == 1) == (1, False)
    assert [e.completion for e in backward.train_examples()] == [e.completion[::-1] for e in task().train_examples()]


def test_questions_and_training_examples_have_seeds_of_their_own() -> None:
    def prompts(each: ReasoningGymTask) -> Any:
        return each.suites()["source"]["sums"].prompts

    assert prompts(task(question_seed=1_000_003)) == prompts(task())
    assert prompts(task(question_seed=7)) == prompts(task(question_seed=7, data_seed=10_000)) != prompts(task())


def test_replay_adds_a_share_of_new_source_examples() -> None:
    words = {"family": "spell_backward", "num_examples": 30, "settings": {"min_word_len": 3, "max_word_len": 4}}
    source = {"sums": SMALL_SUMS, "words": words}
    plain, replaying = task(source=source).train_examples(), task(source=source, replay=0.5).train_examples()
    assert replaying[: len(plain)] == plain
    added = [example.prompt for example in replaying[len(plain) :]]
    asked = {prompt for suite in task(source=source).suites()["source"].values() for prompt in suite.prompts}
    assert not asked & set(added)
    assert sum(prompt.startswith("Spell") for prompt in added) == len(plain) // 2
    assert len(plain) // 3 < sum(prompt.startswith("Calculate") for prompt in added) <= -(-len(plain) // 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hold_out": "sums"}, "task.hold_out must be one of question, words, numbers"),
        ({"replay": 1}, r"task.replay must lie in \[0, 1\), got 1"),
        ({"question_seed": -1}, "task.question_seed must be a whole number of at least 0, got -1"),
        ({"train": {"s": SMALL_SUMS | {"answer": "upward"}}}, "task.train.s.answer must be one of given, backward"),
        ({"train": {"s": SMALL_SUMS | {"answers": "given"}}}, "task.train.s must hold exactly"),
    ],
)
def test_settings_out_of_their_range_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        task(**changes)


def test_replay_without_enough_new_questions_is_refused() -> None:
    everything = task(distinct=True, source={"sums": PLAIN_SUMS | {"num_examples": 121}}, replay=0.3)
    with pytest.raises(
        UserError, match=r"task.replay needs \d+ questions of family basic_arithmetic that no suite asks"
    ):
        everything.train_examples()
