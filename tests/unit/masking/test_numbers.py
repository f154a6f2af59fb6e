"""The engine at the edges of floating-point numbers: half precision, tiny and huge values, NaN and Inf."""

import pytest
import torch
from torch import nn

from gmt.masking import MaskSpec, NonFiniteGradientError, attach
from tests.unit.masking.conftest import model_and_batch

pytestmark = pytest.mark.usefixtures("counted_by")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_by_name(value: float) -> None:
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5))
    model(batch).sum().backward()
    weight = model.get_parameter("2.weight")
    assert weight.grad is not None
    weight.grad[0, 0] = value
    before = weight.detach().clone()
    with pytest.raises(NonFiniteGradientError, match=r"2\.weight holds NaN or Inf at step 1"):
        optimizer.step()
    assert torch.equal(before, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_half_precision_gradients_are_masked_at_their_exact_threshold(dtype: torch.dtype, scope: str) -> None:
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 2)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.7, scope=scope))
    gradients = [torch.randn(p.shape).to(dtype) for p in model.parameters()]
    for p, g in zip(model.parameters(), gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()
    everything = torch.cat([g.abs().flatten() for g in gradients]).sort().values
    for p, g in zip(model.parameters(), gradients, strict=True):
        ranked = everything if scope == "global" else g.abs().flatten().sort().values
        assert torch.equal(p.grad, g * (g.abs() >= ranked[int(0.7 * len(ranked))]))
    facts = mask.facts()
    assert facts is not None
    nonzero = sum(int((p.grad != 0).sum()) for p in model.parameters() if p.grad is not None)
    assert facts.density == nonzero / facts.num_entries


@pytest.mark.parametrize("scale", [1e-41, 1e-38, 1e30])
def test_tiny_and_huge_gradients_are_masked_at_their_exact_threshold(scale: float) -> None:
    model = nn.Linear(50, 40, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, MaskSpec(mask_ratio=0.7))
    gradient = torch.randn(40, 50) * scale
    model.weight.grad = gradient.clone()
    optimizer.step()
    kept = gradient.abs() >= gradient.abs().flatten().sort().values[1400]
    assert torch.equal(model.weight.grad, torch.where(kept, gradient, 0.0))


def test_nan_weights_are_refused_where_weights_are_ranked() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal="weight_magnitude"))
    with torch.no_grad():
        model.bias[0] = float("nan")
    model(torch.randn(4, 3)).sum().backward()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(NonFiniteGradientError, match="weight_magnitude is NaN or Inf at step 1, in bias"):
        optimizer.step()


@pytest.mark.parametrize("signal", ["accumulated_gradient", "random", "first_moment", "weight_magnitude"])
@pytest.mark.parametrize("refresh", [1, 2])
def test_a_nan_gradient_is_refused_under_every_signal(signal: str, refresh: int) -> None:
    model, batch = model_and_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal=signal, refresh=refresh))
    for step in range(2):
        model(batch).pow(2).sum().backward()
        if step == 1:
            model.get_parameter("2.bias").grad.fill_(float("inf"))
            with pytest.raises(NonFiniteGradientError, match=r"2\.bias holds NaN or Inf at step 2"):
                optimizer.step()
        else:
            optimizer.step()
