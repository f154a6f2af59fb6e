"""SaRA: the entries below the threshold train, at a low nuclear norm, and their set only shrinks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.errors import UserError
from gmt.masking.parameters import flat
from gmt.methods.sara import Sara, SaraAtWork, nuclear_norm
from gmt.optimizers.packed_adamw import PackedAdamW
from gmt.training.optimizers import default_groups

THRESHOLD = 0.05


def a_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(70, 66), nn.Linear(66, 3))  # one matrix with both sides above 64


def attached(model: Any, **changes: Any) -> tuple[PackedAdamW, SaraAtWork]:
    method = Sara(**{"name": "sara", "threshold": THRESHOLD, "strength": 0.0, "reselect_at": None} | changes)
    names = [name for name, _ in model.named_parameters()]
    optimizer: Any = method.make_optimizer(
        model, default_groups(model, names, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    )
    return optimizer, method.attach(model, optimizer, seed=3, facts_every=1)


def step(model: nn.Module, optimizer: PackedAdamW, number: int) -> None:
    torch.manual_seed(number)
    optimizer.zero_grad()
    model(torch.randn(5, 70)).square().sum().backward()
    optimizer.step()


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_attaching_moves_nothing_and_later_only_entries_below_the_threshold_move() -> None:
    model = a_model()
    before = values(model)
    optimizer, work = attached(model)
    assert all(torch.equal(a, b) for a, b in zip(before, values(model), strict=True))
    small = [x.abs() < THRESHOLD for x in before]
    assert work.facts()["kept_fraction"] == pytest.approx(sum(map(torch.sum, small)) / sum(x.numel() for x in before))
    for number in range(3):
        step(model, optimizer, number)
    for x, now, is_small in zip(before, values(model), small, strict=True):
        assert torch.equal(now[~is_small], x[~is_small])
        assert not is_small.any() or not torch.equal(now[is_small], x[is_small])
    assert all(p.grad is None for p in model.parameters())  # gathered as it arrived
    assert {len(state["exp_avg"]) for state in optimizer.state.values()} == {int(each.sum()) for each in small}


def test_the_gradient_of_the_nuclear_norm_is_that_of_autograd_and_u_vt() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, requires_grad=True)
    torch.linalg.matrix_norm(x, "nuc").backward()
    norm, gradient = nuclear_norm(x.detach())
    u, singular, vt = torch.linalg.svd(x.detach(), full_matrices=False)
    assert norm == pytest.approx(float(singular.sum()))
    torch.testing.assert_close(gradient, u @ vt)
    torch.testing.assert_close(gradient, x.grad)
    low_rank = torch.outer(torch.arange(3.0), torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(nuclear_norm(low_rank)[1], low_rank / low_rank.norm())
    assert not nuclear_norm(torch.zeros(3, 2))[1].any()


@pytest.mark.parametrize("is_dense", [False, True])  # until the step, as with several workers
def test_a_step_adds_the_norms_gradient_for_trained_entries(is_dense: bool) -> None:
    strength = 0.7
    model, by_hand = a_model(), a_model()
    optimizer, work = attached(model, strength=strength)
    plain, _ = attached(by_hand)
    weight = by_hand[0].weight
    is_small = weight.detach().abs() < THRESHOLD
    norm, gradient = nuclear_norm(weight.detach() * is_small)
    for each, net in ((optimizer, model), (plain, by_hand)):
        if is_dense:
            each.unfollow()
        torch.manual_seed(0)
        net(torch.randn(5, 70)).square().sum().backward()
    for p, arrived in plain.gathered():
        if p is weight:
            arrived.add_(strength * (gradient if is_dense else gradient[is_small]))
    optimizer.step()
    plain.step()
    assert work.facts()["nuclear_norm"] == pytest.approx(float(norm))
    for a, b in zip(values(model), values(by_hand), strict=True):
        torch.testing.assert_close(a, b)


def test_a_second_choice_is_a_subset_of_the_first_and_keeps_moments() -> None:
    model = a_model()
    optimizer, work = attached(model, reselect_at=2)
    num_first = work.num_kept
    weight = model[0].weight
    step(model, optimizer, 0)
    assert work.facts()["num_reselections"] == 0
    first = optimizer.support(weight)
    assert first is not None
    step(model, optimizer, 1)
    assert work.facts()["num_reselections"] == 1
    second = optimizer.support(weight)
    assert second is not None
    assert torch.equal(second.mask(), first.mask() & (flat(weight.detach()).abs() < THRESHOLD))
    assert 0 < second.num_kept < first.num_kept
    assert bool(optimizer.state[weight]["exp_avg"].all())  # stayers carry theirs
    grown = values(model)[0].flatten()[~second.mask()]
    assert work.num_trained() == num_first
    step(model, optimizer, 2)
    assert work.num_trained() == work.num_kept < num_first == work.num_touched()
    assert torch.equal(values(model)[0].flatten()[~second.mask()], grown)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"threshold": 0}, r"method\.threshold must be above 0, got 0"),
        ({"strength": -1}, r"method\.strength must be at least 0, got -1"),
        ({"reselect_at": 0}, r"method\.reselect_at must be a whole number of at least 1, got 0"),
        ({"threshold": 1e-12}, r"method\.threshold must be above .*, the smallest magnitude of the .*, got 1e-12"),
    ],
)
def test_a_wrong_setting_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        attached(a_model(), **changes)
