"""Scores of each signal against values by hand; tests/contract/test_mask_laws.py holds the laws of all."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from gmt.masking.low_rank import LowRankWeight
from gmt.masking.signals import TABLE


def kept(signal: object, weight: Tensor, gradient: Tensor, mask_ratio: float, **more: object) -> Tensor:
    """The entries that move in a step."""
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        model.weight.copy_(weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=mask_ratio, signal=signal, mask_on="update", **more))  # type: ignore[arg-type]
    model.weight.grad = gradient.clone()
    optimizer.step()
    return model.weight.detach() != weight


WEIGHT = torch.tensor([[1.0, -4, 2, 0.5], [8, 1, -1, 3], [0, 2, 6, -5], [4, 3, 0.25, 7]])
GRADIENT = torch.tensor([[2.0, 4, -2, 1], [-8, 0, 3, 0.5], [1, 6, -0.1, 5], [2, -9, 0.75, 7]])


def test_gradient_over_weight_of_a_4_by_4_by_hand() -> None:
    """The ratios are 2, 1, 1, 2; 1, 0, 3, .17; 1e8, 3, .02, 1; .5, 3, 3, 1."""
    mask = kept("gradient_over_weight", WEIGHT, GRADIENT, 0.7)
    assert mask.int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]]


def test_large_gradient_small_weight_of_a_2_by_2_by_hand() -> None:
    weight, gradient = torch.tensor([[3.0, 1], [2, 4]]), torch.tensor([[4.0, 2], [-3, 1]])
    # places among gradients 4, 2, 3, 1 and among weights from the largest 2, 4, 3, 1: sums 6, 6, 6, 2
    assert kept("large_gradient_small_weight", weight, gradient, 0.25).tolist() == [[True, True], [True, False]]
    assert kept("large_gradient_small_weight", weight, gradient * torch.tensor([[0, 1], [1, 1]]), 0.25).tolist() == [
        [False, True],
        [True, True],
    ]


def test_squared_gradients_are_summed_over_steps() -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    spec = MaskSpec(mask_ratio=0.5, signal="squared_gradient", mask_on="update", refresh=2)
    attach(model, optimizer, spec)
    # sums at the third step, since the first: 3 * 3 + 1 and 2 * 2 + 2 * 2 of steps 2 and 3
    for gradient in ([9.0, 0.0], [3.0, 2.0], [1.0, 2.0]):
        before = model.weight.detach().clone()
        model.weight.grad = torch.tensor([gradient])
        optimizer.step()
    assert (before != model.weight).tolist() == [[True, False]]


@pytest.mark.parametrize("svd", ["exact", "randomized"])
def test_low_rank_weight_keeps_the_largest_entries_of_the_best_approximation(svd: str) -> None:
    """Brute force: the sum of outer products of the first singular vectors."""
    torch.manual_seed(0)
    left, right = torch.randn(12, 2), torch.randn(2, 9)
    weight = left @ right + 1e-3 * torch.randn(12, 9)
    u, s, v = torch.linalg.svd(weight.double())
    best = sum(s[i] * torch.outer(u[:, i], v[i]) for i in range(2)).abs()  # type: ignore[union-attr]
    mask = kept(LowRankWeight(rank=2, svd=svd), weight, torch.ones(12, 9), 0.8)
    assert torch.equal(mask, best >= best.flatten().sort().values[86])


def test_low_rank_weight_is_not_the_largest_weight() -> None:
    """One large entry that the first singular vectors do not hold is noise to LIFT."""
    weight = torch.outer(torch.ones(8), torch.ones(8)) * 3 + torch.eye(8) * 4
    weight[0, 0] = 0
    assert not torch.equal(
        kept(LowRankWeight(rank=1, svd="exact"), weight, torch.ones(8, 8), 0.9),
        kept("weight_magnitude", weight, torch.ones(8, 8), 0.9),
    )


def test_low_rank_weight_at_full_rank_is_the_weight() -> None:
    torch.manual_seed(1)
    weight = torch.randn(7, 5)
    for svd in ("exact", "randomized"):
        mask = kept(LowRankWeight(rank=5, svd=svd), weight, torch.ones(7, 5), 0.6)
        assert torch.equal(mask, kept("weight_magnitude", weight, torch.ones(7, 5), 0.6))


def test_a_refresh_without_a_change_of_weights_leaves_the_choice() -> None:
    model = nn.Linear(6, 6, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    spec = MaskSpec(mask_ratio=0.7, signal=LowRankWeight(rank=2, svd="randomized"), refresh=2, mask_on="update")
    mask = attach(model, optimizer, spec)
    chosen, state = [], torch.get_rng_state()
    for _ in range(5):
        model.weight.grad = torch.ones(6, 6)
        optimizer.step()
        chosen.append(mask.state_dict()["masks"]["weight"])
    assert all(torch.equal(chosen[0], other) for other in chosen)
    assert torch.equal(torch.get_rng_state(), state)


def test_bottom_weights_are_the_smallest() -> None:
    mask = kept("weight_magnitude", WEIGHT, torch.ones(4, 4), 0.75, keep="smallest")
    assert torch.equal(mask, WEIGHT.abs() <= WEIGHT.abs().flatten().sort().values[3])


@pytest.mark.parametrize(
    ("weight", "rank", "sentence"),
    [
        (
            torch.ones(3),
            1,
            r"^signal: weight: a low rank needs a matrix, got shape \(3,\), so that exclude must name it",
        ),
        (torch.ones(3, 2), 3, r"^signal: weight: rank must be at most 2 for a matrix of shape \(3, 2\), got 3"),
    ],
)
def test_what_has_no_such_rank_is_refused_by_name(weight: Tensor, rank: int, sentence: str) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    spec = MaskSpec(mask_ratio=0.5, signal=LowRankWeight(rank=rank, svd="exact"))
    with pytest.raises(ValueError, match=sentence):
        attach(model, optimizer, spec)


@pytest.mark.parametrize(
    ("settings", "rule"), [((0, "exact"), "rank must be a whole"), ((1, "qr"), "svd must be one of")]
)
def test_its_settings_say_their_rule(settings: tuple[int, str], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        LowRankWeight(rank=settings[0], svd=settings[1])


class RowSum:
    """A score that no stretch of entries knows."""

    def score_matrix(self, weight: Tensor, gradient: Tensor) -> Tensor:
        return gradient.abs().sum(1, keepdim=True).expand_as(gradient)


def test_a_plug_in_may_score_a_matrix_as_a_whole() -> None:
    mask = kept(RowSum(), torch.zeros(3, 2), torch.tensor([[1.0, 1], [3, 0.5], [0.5, 0.5]]), 0.7)
    assert mask.tolist() == [[False, False], [True, True], [False, False]]


def test_the_docs_name_every_signal_with_its_meaning() -> None:
    page = (Path(__file__).parents[3] / "docs" / "masking.md").read_text(encoding="utf-8")
    for row in TABLE.values():
        assert f"| `{row.name}` | {row.meaning} |" in page, row.name
