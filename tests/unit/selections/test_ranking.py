"""Each selection against an example that was worked out by hand."""

import math
from typing import Any

import pytest

from gmt.errors import UserError
from gmt.selections.base_loss import BaseLoss
from gmt.selections.completion import length_of, prompt_of
from gmt.selections.completion_length import CompletionLength
from gmt.selections.donod import Donod, topsis
from gmt.selections.fraction import number_of
from gmt.selections.grape import Grape
from gmt.selections.random_fraction import RandomFraction
from gmt.tasks.tokens import IGNORED, Tokens


def example(prompt: list[int], answer: list[int]) -> Tokens:
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def preference(chosen: list[int]) -> Tokens:
    return {"prompt_ids": [1], "chosen_ids": chosen, "rejected_ids": [9] * 7}


EXAMPLES = [example([1, 2], [5] * length) for length in (3, 1, 4, 1, 5, 9)]


def random(fraction: float) -> RandomFraction:
    return RandomFraction(name="random", fraction=fraction)


@pytest.mark.parametrize(("fraction", "number"), [(1.0, 6), (0.5, 3), (0.1, 1), (0.08, 0)])
def test_a_fraction_is_the_nearest_whole_number(fraction: float, number: int) -> None:
    assert number_of(fraction, 6) == number
    assert len(random(fraction).choose(EXAMPLES, (), seed=1).indices) == number


def test_a_draw_is_the_same_for_a_seed_and_another_for_another() -> None:
    many = EXAMPLES * 100
    first = random(0.5).choose(many, (), seed=1)
    assert first == random(0.5).choose(many, (), seed=1)
    others = set(random(0.5).choose(many, (), seed=2).indices)
    assert len(others & set(first.indices)) == pytest.approx(150, abs=45)  # of 600; half of 300 by chance, 5 deviations
    assert first.indices[:4] == [509, 349, 208, 418]  # pinned: a run that is done was drawn so


def test_a_smaller_fraction_is_a_part_of_a_larger_one() -> None:
    small, large = (random(fraction).choose(EXAMPLES * 9, (), seed=3).indices for fraction in (0.2, 0.6))
    assert set(small) < set(large)


@pytest.mark.parametrize(("keep", "indices"), [("longest", [5, 4, 2]), ("shortest", [1, 3, 0])])
def test_lengths_are_ranked_and_the_first_of_equals_is_first(keep: str, indices: list[int]) -> None:
    choice = CompletionLength(name=keep, keep=keep, fraction=0.5).choose(EXAMPLES, (), seed=1)
    assert choice.indices == indices
    assert choice.scores == [3, 1, 4, 1, 5, 9]


def test_the_length_of_a_preference_is_that_of_the_better_answer() -> None:
    assert length_of(preference([4, 4])) == 2
    assert prompt_of(preference([4, 4])) == (1,)


@pytest.mark.parametrize(
    ("keep", "indices"), [("lowest", [3, 0]), ("highest", [2, 5]), ("middle", [1, 4])]
)  # by loss: 3, 0, 1, 4, 5 and 2
def test_losses_are_ranked(keep: str, indices: list[int]) -> None:
    measures = [(0.2,), (0.5,), (7.0,), (0.1,), (0.6,), (2.0,)]
    choice = BaseLoss(name="base_loss", keep=keep, fraction=1 / 3).choose(EXAMPLES, measures, seed=1)
    assert sorted(choice.indices) == sorted(indices)
    assert choice.scores == [loss for (loss,) in measures]


def test_grape_chooses_the_likeliest_answer_to_each_prompt_and_the_first_of_equals() -> None:
    prompts = [[1], [2], [1], [3], [2], [1]]
    examples = [example(prompt, [5]) for prompt in prompts]
    grape = Grape(name="grape")
    assert grape.number(examples) == 3
    choice = grape.choose(examples, [(0.3,), (0.4,), (0.2,), (9.0,), (0.4,), (0.2,)], seed=1)
    assert sorted(choice.indices) == [1, 2, 3]


def test_grape_without_candidates_is_refused() -> None:
    with pytest.raises(UserError, match=r"several answers to some prompt .* each of the 2 examples has a prompt of"):
        Grape(name="grape").number([example([1], [5]), example([2], [5])])


def test_topsis_equals_a_computation_by_hand() -> None:
    # norms 5 and 13: (0.6, 5/13), (0.8, 12/13), (0, 0); best (0.8, 12/13), worst (0, 0)
    scores = topsis([[3, 4, 0], [5, 12, 0]])
    to_worst = math.hypot(0.6, 5 / 13)
    to_best = math.hypot(0.2, 7 / 13)
    assert scores == pytest.approx([to_worst / (to_worst + to_best), 1, 0])
    assert topsis([[0, 0], [1, 1]]) == [1, 1]  # no example is better than another


@pytest.mark.parametrize(("don", "best"), [("largest", 0), ("smallest", 1)])
def test_donod_favours_a_small_change_and_the_configured_don(don: str, best: int) -> None:
    donod = Donod(name="donod", step_size=0.1, don=don, fraction=1 / 3)
    choice = donod.choose(EXAMPLES[:3], [(1.0, 0.1), (-1.0, 0.1), (0.0, 4.0)], seed=1)
    assert choice.indices == [best]
    assert choice.scores is not None
    assert min(choice.scores) == choice.scores[2]


@pytest.mark.parametrize(
    ("kind", "wrong", "sentence"),
    [
        (RandomFraction, {"fraction": 0}, r"selection\.fraction must lie in \(0, 1\], got 0"),
        (RandomFraction, {"fraction": 1.5}, r"selection\.fraction must lie in \(0, 1\], got 1\.5"),
        (CompletionLength, {"fraction": 0.5, "keep": "long"}, r"selection\.keep must be one of longest, shortest"),
        (BaseLoss, {"fraction": 0.5, "keep": "low"}, r"selection\.keep must be one of lowest, highest, middle"),
        (Donod, {"fraction": 0.5, "don": "largest", "step_size": 0}, r"selection\.step_size must be above 0, got 0"),
        (Donod, {"fraction": 0.5, "don": "large", "step_size": 1}, r"selection\.don must be one of largest, smallest"),
    ],
)
def test_a_bad_setting_is_a_sentence(kind: Any, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        kind(name="x", **wrong)
