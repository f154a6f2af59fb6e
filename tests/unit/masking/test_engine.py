"""The engine on real optimizers: when it masks, what it leaves alone, what it says."""

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, NonFiniteGradientError, attach


def model_and_batch() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(8, 6)


def train(spec: MaskSpec | None, *, steps: int = 4, resume_at: int | None = None, **adamw: float) -> list[Tensor]:
    """Trains a small model; `resume_at` carries the mask's state into a new one in the middle."""
    model, batch = model_and_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **adamw)
    mask = attach(model, optimizer, spec, seed=3) if spec else None
    for step in range(steps):
        if mask and spec and step == resume_at:
            state = mask.state_dict()
            mask.detach()
            mask = attach(model, optimizer, spec, seed=3)
            mask.load_state_dict(state)
        optimizer.zero_grad()
        model(batch).pow(2).sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("signal", ["gradient", "random"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_ratio_zero_is_the_plain_optimizer_bit_for_bit(signal: str, scope: str) -> None:
    plain, masked = train(None), train(MaskSpec(mask_ratio=0, signal=signal, scope=scope))
    assert all(torch.equal(a, b) for a, b in zip(plain, masked, strict=True))


def test_a_ratio_changes_the_training() -> None:
    plain, masked = train(None), train(MaskSpec(mask_ratio=0.5))
    assert not any(torch.equal(a, b) for a, b in zip(plain, masked, strict=True))


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_only_the_largest_gradients_reach_the_optimizer(scope: str) -> None:
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.6, scope=scope))
    before = [p.detach().clone() for p in model.parameters()]
    model(batch).pow(2).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    everything = torch.cat([g.abs().flatten() for g in gradients]).sort().values
    for old, new, g in zip(before, model.parameters(), gradients, strict=True):
        ranked = g.abs().flatten().sort().values if scope == "tensor" else everything
        threshold = ranked[int(0.6 * len(ranked))]
        assert torch.equal(new, old - g * (g.abs() >= threshold))
    facts = mask.facts()
    assert facts is not None
    assert facts.num_entries == sum(g.numel() for g in gradients)
    assert facts.density == pytest.approx(0.4, abs=0.05)
    assert facts.density < facts.energy_kept < 1


def test_it_masks_once_after_accumulation_and_clipping() -> None:
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5))
    for half in batch.chunk(2):
        (model(half).pow(2).sum() / 2).backward()
    assert mask.facts() is None
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    optimizer.step()
    masked = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    kept = masked != 0
    assert torch.equal(masked[kept], clipped[kept])
    assert mask.facts() is not None


def test_random_draws_go_on_after_a_checkpoint() -> None:
    spec = MaskSpec(mask_ratio=0.5, signal="random")
    whole, resumed = train(spec), train(spec, resume_at=2)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_random_draws_differ_from_step_to_step() -> None:
    model, _ = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal="random"))
    seen = []
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        seen.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert not torch.equal(*seen)
    assert seen[0].mean() == pytest.approx(0.5, abs=0.06)


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


def test_tied_weights_are_ranked_once_and_parameters_without_gradient_are_left_alone() -> None:
    model = nn.Module()
    model.first, model.unused = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    model.tied = model.first
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5))
    model.first(torch.randn(2, 4)).pow(2).sum().backward()
    optimizer.step()
    facts = mask.facts()
    assert facts is not None
    assert facts.num_entries == 16
    assert model.unused.weight.grad is None


def test_detach_leaves_nothing_behind() -> None:
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5)).detach()
    assert not optimizer._optimizer_step_pre_hooks
    model(batch).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if p.grad is not None)


def test_an_optimizer_over_other_parameters_is_refused() -> None:
    model, _ = model_and_batch()
    with pytest.raises(ValueError, match="2 parameters that the model does not name"):
        attach(model, torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), MaskSpec(mask_ratio=0.5))


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, float("nan"), "0.5", True])
def test_a_ratio_outside_its_interval_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"mask_ratio must lie in \[0, 1\), got"):
        MaskSpec(mask_ratio=ratio)
