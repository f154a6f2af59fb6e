"""The engine on real optimizers: when it masks, what it leaves alone, what it says."""

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from gmt.optimizers.packed_adamw import PackedAdamW
from tests.unit.masking.conftest import model_and_batch

pytestmark = pytest.mark.usefixtures("counted_by")


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
    assert facts.measured is not None
    assert facts.density < facts.measured.model.energy_kept < 1


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
    assert not optimizer._optimizer_step_post_hooks
    model(batch).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if p.grad is not None)


def test_an_optimizer_over_other_parameters_is_refused() -> None:
    model, _ = model_and_batch()
    with pytest.raises(ValueError, match="2 parameters that the model does not have"):
        attach(model, torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), MaskSpec(mask_ratio=0.5))


def test_excluded_parameters_train_densely_or_not_at_all() -> None:
    for excluded in ("dense", "frozen"):
        model, batch = model_and_batch()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        spec = MaskSpec(mask_ratio=0.5, mask_on="update", exclude=("0.*", "*.bias"), excluded=excluded)
        mask = attach(model, optimizer, spec)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        model(batch).pow(2).sum().backward()
        optimizer.step()
        moved = {name: int((p != before[name]).sum()) for name, p in model.named_parameters()}
        facts = mask.facts()
        assert facts is not None
        assert facts.num_entries == 15
        assert moved["2.weight"] == 8  # of 15 entries floor(7.5) are masked
        assert moved["0.weight"] == (30 if excluded == "dense" else 0)
        assert moved["0.bias"] == (5 if excluded == "dense" else 0)


@pytest.mark.parametrize("excluded", ["dense", "frozen"])
def test_excluded_parameters_follow_their_setting_where_linear_layers_train_alone(excluded: str) -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    spec = MaskSpec(mask_ratio=0.5, parameters="linear_alone", exclude=("1.*",), excluded=excluded)
    mask = attach(model, optimizer, spec)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(batch).pow(2).sum().backward()
    optimizer.step()
    moved = {name: int((p != before[name]).sum()) for name, p in model.named_parameters()}
    weight, bias = (16, 4) if excluded == "dense" else (0, 0)
    assert moved == {"0.weight": 8, "0.bias": 0, "1.weight": weight, "1.bias": bias}
    assert mask.num_trained() == 8 + weight + bias


@pytest.mark.parametrize("moments", ["dense", "packed"])
def test_what_linear_layers_alone_freeze_has_no_gradient_that_clipping_would_count(moments: str) -> None:
    model, batch = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(3, 4)
    optimizer = (PackedAdamW if moments == "packed" else torch.optim.AdamW)(model.parameters())
    settings = {"refresh": "once", "mask_on": "update", "moments": moments}
    spec = MaskSpec(mask_ratio=0.5, parameters="linear_alone", **settings)  # type: ignore[arg-type]
    mask = attach(model, optimizer, spec)
    model(batch).pow(2).sum().backward()
    assert not any(name.endswith("bias") and p.grad is not None for name, p in model.named_parameters())
    optimizer.step()
    mask.detach()
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("moments", ["masked", "packed"])
def test_entries_are_counted_after_a_checkpoint_without_another_step(moments: str) -> None:
    model, batch = model_and_batch()
    kind = PackedAdamW if moments == "packed" else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=0.1)
    name = next(name for name, _ in model.named_parameters())
    spec = MaskSpec(mask_ratio=0.6, refresh="once", mask_on="update", moments=moments, exclude=(name,))
    mask = attach(model, optimizer, spec)
    model(batch).pow(2).sum().backward()
    optimizer.step()
    counts, state = (mask.num_trained(), mask.num_touched()), mask.state_dict()
    assert counts[0] > model.get_parameter(name).numel()
    mask.detach()
    mask = attach(model, optimizer, spec)
    mask.load_state_dict(state)
    assert (mask.num_trained(), mask.num_touched()) == counts
    older = {key: value for key, value in state.items() if key not in ("num_entries", "num_whole")}
    mask.load_state_dict(older)
    assert mask.num_trained() == 0


def test_a_mask_stays_for_several_steps_and_is_then_chosen_again() -> None:
    model, _ = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, refresh=3, mask_on="update"))
    moved = []
    for _ in range(6):
        before = model.get_parameter("0.weight").detach().clone()
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        moved.append(model.get_parameter("0.weight").detach() != before)
    assert all(torch.equal(moved[0], m) for m in moved[:3])
    assert all(torch.equal(moved[3], m) for m in moved[3:])
    assert not torch.equal(moved[0], moved[3])
    facts = mask.facts()
    assert facts is not None
    assert facts.density == pytest.approx(0.5, abs=0.03)


def test_accumulated_gradients_are_summed_since_the_last_refresh() -> None:
    model = nn.Linear(8, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal="accumulated_gradient", refresh=2))
    given = torch.randn(5, 1, 8)
    for step in range(5):
        model.weight.grad = given[step].clone()
        optimizer.step()
        if step in (2, 4):  # the mask of step 2 is made from steps 1 and 2: what came since step 0's
            total = given[step - 1 : step + 1].sum(0)
            kept = total.abs() >= total.abs().flatten().sort().values[4]
            assert torch.equal(model.weight.grad != 0, kept)


def test_the_first_moment_is_the_one_with_this_steps_gradient_in_it() -> None:
    for make in (
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, dampening=0.3),
    ):
        model = nn.Linear(8, 1, bias=False)
        optimizer = make(model.parameters())
        attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal="first_moment", mask_on="update"))
        for _ in range(3):
            before = model.weight.detach().clone()
            model.weight.grad = torch.randn(1, 8)
            optimizer.step()
            state = optimizer.state[model.weight]
            moment = state.get("exp_avg", state.get("momentum_buffer")).abs()
            kept = moment >= moment.flatten().sort().values[4]
            assert torch.equal(model.weight != before, kept)


def test_weights_rank_as_they_are_and_times_the_gradient() -> None:
    for signal in ("weight_magnitude", "weight_times_gradient"):
        model = nn.Linear(8, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal=signal, keep="smallest"))
        model.weight.grad = gradient = torch.randn(1, 8)
        score = (model.weight if signal == "weight_magnitude" else model.weight * gradient).detach().abs()
        optimizer.step()
        assert torch.equal(gradient != 0, score <= score.flatten().sort().values[3])


def test_layers_share_a_threshold_and_the_rest_have_their_own() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(3, 3) for _ in range(2)), "head": nn.Linear(3, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, scope="layer"))
    for i, p in enumerate(model.parameters()):
        p.grad = torch.rand_like(p) + i
    optimizer.step()
    nonzero = {name: int((p.grad != 0).sum()) for name, p in model.named_parameters() if p.grad is not None}
    assert nonzero["layers.0.weight"] == nonzero["layers.1.weight"] == 3  # 6 of 12, and the biases are larger
    assert nonzero["layers.0.bias"] == nonzero["layers.1.bias"] == 3
    assert nonzero["head.weight"] == 3
    assert nonzero["head.bias"] == 1


def test_a_parameter_whose_first_gradient_comes_late_is_ranked_then() -> None:
    model = nn.ModuleList([nn.Linear(4, 2, bias=False), nn.Linear(4, 2, bias=False)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, refresh="once"))
    model[0].weight.grad = torch.randn(2, 4)
    optimizer.step()
    model[1].weight.grad = torch.randn(2, 4)
    optimizer.step()
    assert int((model[1].weight.grad != 0).sum()) == 4
    facts = mask.facts()
    assert facts is not None
    assert facts.density == 0.5


def test_groups_added_later_are_masked_too() -> None:
    model, batch = model_and_batch()
    first, second = model.get_submodule("0"), model.get_submodule("2")
    optimizer = torch.optim.SGD([{"params": first.parameters(), "lr": 0.1}], lr=0.2)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5))
    model(batch).pow(2).sum().backward()
    optimizer.step()
    optimizer.add_param_group({"params": second.parameters()})
    added = nn.Linear(3, 3)
    model.append(added)
    optimizer.add_param_group({"params": added.parameters()})
    optimizer.zero_grad()
    model(batch).pow(2).sum().backward()
    optimizer.step()
    facts = mask.facts()
    assert facts is not None
    assert facts.num_entries == sum(p.numel() for p in model.parameters())


def test_gradients_that_are_not_contiguous_are_masked_in_place_of_their_entries() -> None:
    model = nn.Linear(4, 6, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, mask_on="update"))
    before, gradient = model.weight.detach().clone(), torch.randn(4, 6).t()
    model.weight.grad = gradient.clone(memory_format=torch.preserve_format)
    assert not model.weight.grad.is_contiguous()
    optimizer.step()
    kept = gradient.abs() >= gradient.abs().flatten().sort().values[12]
    assert torch.equal(model.weight, torch.where(kept, before - gradient, before))
