"""The largest rise of quadratics, whose answer is known, and the mean rise by noise."""

import pytest
import torch
from torch import Tensor

from gmt.diagnostics.ascent import checkpoints, largest_rise, mean_rise

RHO = 0.1


def weights() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Two tensors, with slope and curvature of a loss in each."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 3), (4,))
    w, slope = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    return [each.requires_grad_() for each in w], slope, [torch.rand(shape, generator=generator) for shape in shapes]


def test_a_convex_quadratic_is_highest_in_a_corner_of_the_box() -> None:
    w, slope, curvature = weights()
    start = [each.detach().clone() for each in w]

    def loss() -> Tensor:
        parts = (c * x + a * (x - s).square() / 2 for x, s, c, a in zip(w, start, slope, curvature, strict=True))
        return torch.stack([part.sum() for part in parts]).sum()

    bounds = [RHO * s.abs() for s in start]
    known = sum(
        float((c.abs() * b + a * b.square() / 2).sum()) for c, a, b in zip(slope, curvature, bounds, strict=True)
    )
    assert largest_rise(loss, w, bounds, 20) == pytest.approx(known, rel=1e-4)
    assert all(torch.equal(x, s) for x, s in zip(w, start, strict=True))
    twice = [2 * b for b in bounds]
    assert largest_rise(loss, w, twice, 20) > largest_rise(loss, w, bounds, 20)


def test_a_maximum_inside_the_box_is_found() -> None:
    w, slope, _ = weights()
    start = [each.detach().clone() for each in w]
    bounds = [RHO * s.abs() for s in start]
    tops = [s + 0.5 * b * c.sign() for s, b, c in zip(start, bounds, slope, strict=True)]

    def loss() -> Tensor:
        return -torch.stack([(x - top).square().sum() for x, top in zip(w, tops, strict=True)]).sum()

    known = sum(float((s - top).square().sum()) for s, top in zip(start, tops, strict=True))
    assert largest_rise(loss, w, bounds, 60) == pytest.approx(known, rel=0.05)


def test_without_room_nothing_rises() -> None:
    w, slope, _ = weights()

    def loss() -> Tensor:
        return torch.stack([(x * c).sum() for x, c in zip(w, slope, strict=True)]).sum()

    nowhere = [torch.zeros_like(x) for x in w]
    assert largest_rise(loss, w, nowhere, 5) == 0
    assert mean_rise(loss, w, nowhere, 5, torch.Generator()) == 0
    only_first = [RHO * w[0].detach().abs(), nowhere[1]]
    known = float((only_first[0] * slope[0].abs()).sum())
    assert largest_rise(loss, w, only_first, 5) == pytest.approx(known, rel=1e-4)


def test_noise_raises_a_quadratic_by_half_its_curvature_times_the_variance() -> None:
    w, _, curvature = weights()
    start = [each.detach().clone() for each in w]

    def loss() -> Tensor:
        return torch.stack(
            [(a * (x - s).square()).sum() / 2 for x, s, a in zip(w, start, curvature, strict=True)]
        ).sum()

    scales = [RHO * s.abs() for s in start]
    known = sum(float((a * b.square()).sum()) / 2 for a, b in zip(curvature, scales, strict=True))
    found = mean_rise(loss, w, scales, 4000, torch.Generator().manual_seed(0))
    assert found == pytest.approx(known, rel=0.1)
    assert all(torch.equal(x, s) for x, s in zip(w, start, strict=True))


def test_a_loss_of_nan_is_refused() -> None:
    w, _, _ = weights()
    with pytest.raises(FloatingPointError):
        largest_rise(lambda: w[0].sum() * float("nan"), w, [torch.zeros_like(x) for x in w], 2)


def test_checkpoints_become_more_frequent() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]  # Croce and Hein's for 100 steps
    assert checkpoints(1) == []
