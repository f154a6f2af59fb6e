"""scope=entropy: each tensor's part of the kept entries, against the formula by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from gmt.masking.budgets import ratios, shared_out
from gmt.masking.engine import NonFiniteGradientError
from gmt.masking.rule import Scores, num_masked
from gmt.optimizers.packed_adamw import PackedAdamW


@pytest.mark.parametrize(
    ("total", "weights", "sizes", "parts"),
    [
        (10, [1.0, 3.0], [100, 100], [2, 7]),
        (10, [1.0, 9.0], [100, 5], [5, 5]),  # what exceeds the second goes to the first
        (10, [0.0, 1.0], [100, 100], [1, 10]),  # nothing to rank, and still one entry
        (3, [1.0, 1.0, 1e6], [4, 4, 2], [1, 1, 2]),
        (4, [0.0, 0.0], [3, 3], [1, 1]),
        (20, [1.0, 1.0], [10, 10], [10, 10]),
    ],
)
def test_parts_are_in_proportion_and_fit_their_tensors(
    total: int, weights: list[float], sizes: list[int], parts: list[int]
) -> None:
    assert shared_out(total, weights, sizes) == parts


def scores_of(x: Tensor, shards: Any = None) -> Scores:
    return Scores(chunks=lambda: iter(x.split(7)), dtype=x.dtype, num_entries=x.numel(), shards=shards, device=x.device)


def weight(x: Tensor) -> float:
    """GEM's, by hand."""
    x = x.double().abs()
    shares = (x / x.sum())[x > 0]
    return float(x.norm() * -(shares * shares.log()).sum())


def test_a_part_goes_by_norm_times_entropy() -> None:
    tensors = [torch.rand(200) ** 3, torch.rand(300) * torch.rand(300).round(), torch.rand(50) * 2]
    expected = shared_out(550 - num_masked(0.8, 550), [weight(x) for x in tensors], [200, 300, 50])
    found = ratios([scores_of(x) for x in tensors], 0.8)
    assert [len(x) - num_masked(ratio, len(x)) for x, ratio in zip(tensors, found, strict=True)] == expected
    assert len({*expected}) == 3


def test_sums_are_those_of_all_shards() -> None:
    class Twice:
        """Another process holds the same entries."""

        def sum_(self, counts: Tensor) -> None:
            counts.mul_(2)

    x, other = torch.rand(40), torch.rand(90)
    halves = [Scores(**{**vars(scores_of(x, Twice())), "num_entries": 80}), scores_of(other)]
    assert ratios(halves, 0.5) == pytest.approx(ratios([scores_of(torch.cat([x, x])), scores_of(other)], 0.5))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.Linear(20, 4))


def with_gradients(net: nn.Module, step: int) -> nn.Module:
    generator = torch.Generator().manual_seed(step)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator) ** 3
    return net


def entropy(**settings: Any) -> MaskSpec:
    how = {
        "mask_ratio": 0.8,
        "signal": "gradient_over_weight",
        "scope": "entropy",
        "refresh": "once",
        "mask_on": "update",
    }
    return MaskSpec(**{**how, **settings})


def test_the_mask_keeps_the_largest_ratios_of_each_tensor() -> None:
    net = with_gradients(model(), 0)
    before = [p.detach().clone() for p in net.parameters()]
    scores = [(p.grad.abs() / (p.detach().abs() + 1e-8)).flatten() for p in net.parameters() if p.grad is not None]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    attach(net, optimizer, entropy())
    total = sum(map(len, scores))
    parts = shared_out(total - num_masked(0.8, total), [weight(x) for x in scores], [*map(len, scores)])
    optimizer.step()
    for p, old, x, part in zip(net.parameters(), before, scores, parts, strict=True):
        assert {*(p != old).flatten().nonzero().flatten().tolist()} == {*x.topk(part).indices.tolist()}


def test_packed_moments_have_the_bits_of_masked_ones() -> None:
    ends = []
    for moments in ("masked", "packed"):
        net = model()
        optimizer: Any = (
            PackedAdamW(net.parameters(), lr=0.1)
            if moments == "packed"
            else torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.0, fused=True)
        )
        mask = attach(net, optimizer, entropy(moments=moments))
        for step in range(3):
            with_gradients(net, step)
            optimizer.step()
            optimizer.zero_grad()
        ends.append([p.detach().clone() for p in net.parameters()])
        assert mask.num_trained() == pytest.approx(0.2 * 224, abs=4)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_gradient_that_is_not_finite_is_named() -> None:
    net = with_gradients(model(), 0)
    net[1].weight.grad[0, 0] = math.inf  # type: ignore[index, union-attr]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    attach(net, optimizer, entropy())
    with pytest.raises(NonFiniteGradientError, match=r"the gradient of 1\.weight holds NaN or Inf"):
        optimizer.step()


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"grain": "row"}, "grain=row and signal=gradient_over_weight"),
        ({"signal": "random"}, "grain=entry and signal=random"),
        ({"signal": "large_gradient_small_weight"}, "grain=entry and signal=large_gradient_small_weight"),
    ],
)
def test_what_has_no_scores_of_single_entries_is_refused(settings: dict[str, Any], got: str) -> None:
    with pytest.raises(ValueError, match=rf"scope=entropy needs grain=entry and a signal .*, got {got}"):
        entropy(**settings)
