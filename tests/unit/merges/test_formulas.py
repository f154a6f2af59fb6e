"""Each merge against a formula worked out by hand, and at its edges."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gmt.errors import UserError
from gmt.merges.drop import Drop
from gmt.merges.graft import Graft
from gmt.merges.lines import Lines
from gmt.merges.protocol import Merge
from gmt.merges.soup import GreedySoup, Soup
from gmt.merges.ties import Ties
from gmt.merges.transfer import Transfer
from gmt.merges.wise_ft import WiseFt
from gmt.tasks.reasoning_gym import Family

QUESTIONS = Family(family="chain_sum", settings={}, num_examples=1, data_seed=0, max_new_tokens=4)
ONE_PARENT: list[Any] = [
    WiseFt(name="m", alpha=0.3),
    Drop(name="m", fraction=0.5, which="random", rescale=False),
    Drop(name="m", fraction=0.5, which="random", rescale=True),
    Drop(name="m", fraction=0.5, which="smallest", rescale=False),
    Lines(name="m", alpha=0.5, beta=None),
    Transfer(name="m", scale=1.0),
    Graft(name="m", keep=0.1),
]
SEVERAL: list[Any] = [
    Soup(name="m"),
    GreedySoup(name="m", validation={"x": QUESTIONS}),
    Ties(name="m", keep=0.5, scale=1.0),
]


@dataclass(frozen=True)
class Memory:
    """Weights in memory, of blocks that are numbered in their names."""

    own: Mapping[str, Tensor]
    parents: Sequence[Mapping[str, Tensor]]
    num_blocks: int = 0

    @property
    def names(self) -> list[str]:
        return list(self.own)

    @property
    def num_parents(self) -> int:
        return len(self.parents)

    def block(self, name: str) -> int | None:
        return int(name) if name.isdigit() else None

    def base(self, name: str) -> Tensor:
        return self.own[name].clone()

    def tuned(self, parent: int, name: str) -> Tensor:
        return self.parents[parent][name].clone()

    def delta(self, parent: int, name: str) -> Tensor:
        return self.parents[parent][name] - self.own[name]


def flat(base: list[float], *parents: list[float]) -> Memory:
    """One tensor, called w."""
    return Memory({"w": torch.tensor(base)}, [{"w": torch.tensor(each)} for each in parents])


def drawn(num_parents: int, *, seed: int = 0) -> Memory:
    """Several tensors of numbers that no arithmetic keeps exactly."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"head": (3, 40), "0": (50, 8), "1": (7, 11), "2": (13,)}
    own, *parents = (
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(1 + num_parents)
    )
    return Memory(own, parents, num_blocks=3)


def merged(merge: Merge, weights: Memory, *, seed: int = 1) -> dict[str, Tensor]:
    formula = merge.formula(weights, seed=seed)
    return {name: formula(name) for name in weights.names}


def assert_same(made: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert all(torch.equal(made[name], other[name]) for name in made)


def assert_close(merge: Merge, weights: Memory, expected: list[float]) -> None:
    torch.testing.assert_close(merged(merge, weights)["w"], torch.tensor(expected))


@pytest.mark.parametrize("merge", [*ONE_PARENT, *SEVERAL])
def test_a_tensor_follows_from_weights_settings_and_seed_alone(merge: Merge) -> None:
    weights = drawn(merge.num_parents[0])
    formula = merge.formula(weights, seed=1)
    backwards = {name: formula(name) for name in reversed(weights.names)}
    assert_same(backwards, merged(merge, weights))
    assert_same({name: formula(name) for name in weights.names}, backwards)
    assert all(tensor.dtype == torch.float32 for tensor in backwards.values())


@pytest.mark.parametrize("merge", [*ONE_PARENT, *SEVERAL])
def test_every_merge_of_unmoved_parents_is_the_base(merge: Merge) -> None:
    weights = drawn(0)
    still = Memory(weights.own, [weights.own] * merge.num_parents[0], num_blocks=3)
    assert_same(merged(merge, still), weights.own)


def test_wise_ft_at_0_is_the_base_and_at_1_the_tuned_model() -> None:
    weights = drawn(1)
    assert_same(merged(WiseFt(name="m", alpha=0), weights), weights.own)
    assert_same(merged(WiseFt(name="m", alpha=1), weights), weights.parents[0])
    assert_close(WiseFt(name="m", alpha=0.25), flat([0.0, 4.0], [2.0, 0.0]), [0.5, 3.0])


@pytest.mark.parametrize("fraction", [0, 0.29, 0.9])
def test_the_smallest_are_dropped_by_the_floor_of_the_fraction(fraction: float) -> None:
    weights = drawn(1)
    for name, tensor in merged(Drop(name="m", fraction=fraction, which="smallest", rescale=False), weights).items():
        base, tuned = weights.own[name], weights.parents[0][name]
        moved, size = tensor != base, (tuned - base).abs()
        assert int((~moved).sum()) == math.floor(fraction * tensor.numel() + 1e-9)
        assert torch.equal(tensor[moved], tuned[moved])
        assert fraction == 0 or size[moved].min() >= size[~moved].max()


def test_a_random_drop_drops_the_fraction_within_binomial_bounds() -> None:
    num, fraction = 100_000, 0.7
    made = merged(Drop(name="m", fraction=fraction, which="random", rescale=False), flat([0.0] * num, [1.0] * num))
    num_dropped = int((made["w"] == 0).sum())
    assert abs(num_dropped - fraction * num) < 5 * math.sqrt(num * fraction * (1 - fraction))
    assert int((made["w"] == 1).sum()) == num - num_dropped


def test_the_expectation_of_dare_is_the_delta() -> None:
    dare, weights = Drop(name="m", fraction=0.5, which="random", rescale=True), flat([1.0, -2.0, 0.5], [2.0, 1.0, 0.25])
    seeds = 500
    mean = torch.stack([merged(dare, weights, seed=seed)["w"] for seed in range(seeds)]).mean(0)
    delta = weights.delta(0, "w")
    assert bool(((mean - weights.own["w"] - delta).abs() < 5 * delta.abs() / math.sqrt(seeds)).all())


def test_a_random_drop_depends_on_seed_and_tensor() -> None:
    drop = Drop(name="m", fraction=0.5, which="random", rescale=False)
    one = torch.ones(64)
    weights = Memory({"a": 0 * one, "b": 0 * one}, [{"a": one, "b": one}])
    first, other = (merged(drop, weights, seed=seed) for seed in (1, 2))
    assert not torch.equal(first["a"], first["b"])
    assert not torch.equal(first["a"], other["a"])


def test_a_smaller_drop_keeps_all_entries_that_a_larger_one_keeps() -> None:
    weights = drawn(1)
    few, many = (merged(Drop(name="m", fraction=f, which="random", rescale=False), weights) for f in (0.8, 0.3))
    for name, base in weights.own.items():
        assert bool((many[name] != base)[few[name] != base].all())


def test_a_soup_is_the_mean_and_of_one_model_that_model() -> None:
    weights = drawn(1)
    assert_same(merged(Soup(name="m"), weights), weights.parents[0])
    assert_same(merged(Soup(name="m"), Memory(weights.own, [weights.parents[0]] * 3)), weights.parents[0])
    assert_close(Soup(name="m"), flat([9.0, 9.0], [1.0, 0.0], [2.0, -1.0], [6.0, 4.0]), [3.0, 1.0])


def test_a_greedy_soup_adds_a_parent_only_if_the_score_improves() -> None:
    scores = {(0,): 0.5, (1,): 0.7, (2,): 0.7, (1, 2): 0.7, (1, 0): 0.8}
    asked = []

    def score(members: Sequence[int]) -> float:
        asked.append(tuple(members))
        return scores[tuple(members)]

    chosen = GreedySoup(name="m", validation={"x": QUESTIONS}).choose(3, score)
    assert list(chosen) == [1, 0]  # 1 before 2, its equal; with 2 it is no better
    assert asked == [(0,), (1,), (2,), (1, 2), (1, 0)]


def test_ties_against_a_computation_by_hand() -> None:
    # Of 5 entries each the 3 largest stay: [5, -4, 3, 0, 0], [-1, -6, 0, 0, 4] (of 1 and 0.5 the larger).
    weights = flat([0.0] * 5, [5.0, -4.0, 3.0, 0.5, 0.2], [-1.0, -6.0, 0.2, 0.5, 4.0])
    # Signs of the sums: + - + 0 +. In all + wins (3 to 1), but nothing stays where the 0 is.
    assert_close(Ties(name="m", keep=0.6, scale=1.0), weights, [5.0, -5.0, 3.0, 0.0, 4.0])
    assert_close(Ties(name="m", keep=0.6, scale=0.5), weights, [2.5, -2.5, 1.5, 0.0, 2.0])


def test_ties_gives_a_sum_of_zero_the_sign_of_most_others() -> None:
    signs = {"minus": [-1.0, -1.0], "zero": [3.0]}
    others = {"minus": [-1.0, -2.0], "zero": [-3.0]}
    own = {name: torch.zeros(len(values)) for name, values in signs.items()}
    parents = [{name: torch.tensor(values) for name, values in each.items()} for each in (signs, others)]
    made = merged(Ties(name="m", keep=1.0, scale=1.0), Memory(own, parents))
    assert made["zero"].tolist() == [-3.0]  # mergekit says +
    torch.testing.assert_close(made["minus"], torch.tensor([-1.0, -1.5]))


def test_ties_trims_over_all_tensors_together() -> None:
    own = {"large": torch.zeros(2), "small": torch.zeros(2)}
    parents = [{"large": torch.tensor([9.0, 8.0]), "small": torch.tensor([0.2, 0.1])}] * 2
    made = merged(Ties(name="m", keep=0.5, scale=1.0), Memory(own, parents))
    assert made["large"].tolist() == [9, 8]
    assert made["small"].tolist() == [0, 0]  # mergekit keeps one of each tensor


def test_lines_scales_the_first_block_by_alpha_and_leaves_the_last() -> None:
    own = {name: torch.zeros(1) for name in ("head", "0", "1", "2")}
    weights = Memory(own, [{name: torch.full((1,), 4.0) for name in own}], num_blocks=3)
    made = merged(Lines(name="m", alpha=0.5, beta=None), weights)
    assert [made[name].item() for name in ("head", "0", "1", "2")] == [2, 2, 3, 4]
    made = merged(Lines(name="m", alpha=0.5, beta=0.25), weights)
    assert [made[name].item() for name in ("head", "0", "1", "2")] == [2, 2, 2.5, 3]


def test_lines_at_1_is_the_tuned_model() -> None:
    weights = drawn(1)
    assert_same(merged(Lines(name="m", alpha=1, beta=0), weights), weights.parents[0])
    with pytest.raises(UserError, match="at least 2 numbered blocks, got 1"):
        merged(Lines(name="m", alpha=0.5, beta=None), Memory(weights.own, weights.parents, num_blocks=1))


def test_a_transfer_adds_the_delta() -> None:
    assert_close(Transfer(name="m", scale=2.0), flat([1.0, 2.0], [1.5, 1.0]), [2.0, 0.0])


def test_a_graft_takes_the_largest_of_all_tensors_and_leaves_the_rest_bit_for_bit() -> None:
    weights = drawn(1)
    assert_same(merged(Graft(name="m", keep=1.0), weights), weights.parents[0])
    made = merged(Graft(name="m", keep=0.1), weights)
    moved = torch.cat([(made[name] != weights.own[name]).flatten() for name in made])
    size = torch.cat([weights.delta(0, name).abs().flatten() for name in made])
    assert int(moved.sum()) == len(moved) - math.floor(0.9 * len(moved))
    assert size[moved].min() > size[~moved].max()
    for name, tensor in made.items():
        assert bool(((tensor == weights.own[name]) | (tensor == weights.parents[0][name])).all())


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (WiseFt, {"alpha": 1.1}, r"merge\.alpha must lie in \[0, 1\], got 1\.1"),
        (Drop, {"fraction": 1, "which": "random", "rescale": False}, r"merge\.fraction must lie in \[0, 1\), got 1"),
        (Drop, {"fraction": 0, "which": "largest", "rescale": False}, "merge.which must be one of random, smallest"),
        (
            Drop,
            {"fraction": 0, "which": "smallest", "rescale": True},
            "merge.rescale must be false for merge.which=smal",
        ),
        (Ties, {"keep": 0, "scale": 1}, r"merge\.keep must lie in \(0, 1\], got 0"),
        (Ties, {"keep": 1, "scale": 0}, r"merge\.scale must be above 0, got 0"),
        (Lines, {"alpha": -1, "beta": None}, r"merge\.alpha must be at least 0, got -1"),
        (Lines, {"alpha": 1, "beta": -1}, r"merge\.beta must be at least 0 or null, got -1"),
        (Graft, {"keep": math.nan}, r"merge\.keep must lie in \(0, 1\], got nan"),
        (GreedySoup, {"validation": {}}, "merge.validation must name at least one evaluation"),
    ],
)
def test_a_wrong_setting_is_a_sentence(kind: Any, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        kind(name="m", **settings)


def test_weights_with_nan_are_refused() -> None:
    with pytest.raises(UserError, match="finite numbers, got NaN or Inf"):
        merged(Graft(name="m", keep=0.5), flat([0.0, 0.0], [math.nan, 1.0]))
