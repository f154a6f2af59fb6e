"""What is measured of a step, against a look at every entry."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from gmt.masking import LayerFacts, MaskFacts, MaskSpec, attach
from gmt.masking.facts import _SampledEntries, _sums, _sums_together


def a_model(width: int = 12) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"layers": nn.ModuleList(nn.Linear(width, width) for _ in range(2)), "head": nn.Linear(width, 3)}
    )


def forward(model: nn.ModuleDict, x: Tensor) -> Tensor:
    for layer in model["layers"]:
        x = layer(x).tanh()
    loss: Tensor = model["head"](x).pow(2).sum()
    return loss


def train(spec: MaskSpec, *, steps: int = 4, width: int = 12, **facts: int) -> list[tuple[MaskFacts, dict[str, Any]]]:
    """The facts of each step, beside what a copy of everything says."""
    model = a_model(width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    given: dict[str, Tensor] = {}
    optimizer.register_step_pre_hook(lambda *_: given.update({n: p.grad.clone() for n, p in model.named_parameters()}))
    mask = attach(model, optimizer, spec, **{"facts_every": 1, **facts})
    touched = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    last: dict[str, Tensor] = {}
    seen = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        x = torch.randn(5, width)
        x[:, 0] = 0
        forward(model, x).backward()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer.step()
        every: dict[str, Any] = {
            "n": 0,
            "kept": 0,
            "zero": 0,
            "e": 0,
            "ek": 0,
            "moved": 0,
            "u": 0,
            "um": 0,
            "and": 0,
            "or": 0,
        }
        every["touched"] = 0
        for n, p in model.named_parameters():
            g, u = given[n].double(), p.detach().double() - before[n].double()
            size = g.numel()
            kept = (g != 0) & (g.abs() >= g.abs().flatten().sort().values[int(spec.mask_ratio * size)])
            touched[n] |= u != 0
            for key, value in {
                "n": size, "kept": kept.sum(), "zero": (g == 0).sum(), "e": g.pow(2).sum(), "ek": g[kept].pow(2).sum(),
                "moved": (u != 0).sum(), "u": u.pow(2).sum(), "um": u[~kept].pow(2).sum(), "touched": touched[n].sum(),
                "and": (kept & last.get(n, kept)).sum(), "or": (kept | last.get(n, kept)).sum(),
            }.items():  # fmt: skip
                every[key] += float(value)
            last[n] = kept
        facts_now = mask.facts()
        assert facts_now is not None
        seen.append((facts_now, every))
    return seen


@pytest.mark.parametrize("mask_on", ["gradient", "update"])
def test_a_small_model_is_measured_whole(mask_on: str) -> None:
    for step, (facts, every) in enumerate(train(MaskSpec(mask_ratio=0.8, mask_on=mask_on))):
        assert facts.measured is not None
        found = facts.measured.model
        n = every["n"]
        assert found.num_sampled == facts.num_entries == n
        assert found.kept_fraction == facts.density == pytest.approx(every["kept"] / n)
        assert found.zero_fraction == pytest.approx(every["zero"] / n)
        assert found.zero_fraction > 0
        assert found.energy_kept == pytest.approx(every["ek"] / every["e"])
        assert found.moved_fraction == pytest.approx(every["moved"] / n)
        assert found.masked_update_energy == pytest.approx(every["um"] / every["u"])
        assert found.touched_fraction == pytest.approx(every["touched"] / n)
        assert found.overlap == (None if step == 0 else pytest.approx(every["and"] / every["or"]))
        assert list(facts.measured.layers) == ["layers.0", "layers.1", "head.weight", "head.bias"]
        whole = sum(layer.moved_fraction * layer.num_sampled for layer in facts.measured.layers.values())
        assert whole == pytest.approx(every["moved"])


def test_momentum_moves_what_a_gradient_mask_has_masked_and_an_update_mask_does_not() -> None:
    by_gradient = train(MaskSpec(mask_ratio=0.8))[-1][0].measured
    by_update = train(MaskSpec(mask_ratio=0.8, mask_on="update"))[-1][0].measured
    assert by_gradient is not None
    assert by_update is not None
    assert by_gradient.model.moved_fraction > 0.4 > 0.25 > by_update.model.moved_fraction
    assert by_gradient.model.masked_update_energy > 0
    assert by_update.model.masked_update_energy == 0


@pytest.mark.parametrize(("mask_on", "moved"), [("gradient", 1.0), ("update", 0.2)])
def test_under_muon_a_masked_gradient_moves_every_entry_and_a_masked_update_does_not(
    mask_on: str, moved: float
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 20, bias=False)
    optimizer = torch.optim.Muon(model.parameters(), lr=0.1, weight_decay=0.0)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.8, mask_on=mask_on), facts_every=1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(32, 16)).pow(2).sum().backward()
        optimizer.step()
    facts = mask.facts()
    assert facts is not None
    assert facts.measured is not None
    assert facts.measured.model.moved_fraction == pytest.approx(moved)
    assert (facts.measured.model.masked_update_energy > 0.2) == (mask_on == "gradient")


def test_a_sample_of_a_larger_model_comes_close() -> None:
    for (sampled, _), (whole, _) in zip(
        train(MaskSpec(mask_ratio=0.8), width=96, facts_entries=4000),
        train(MaskSpec(mask_ratio=0.8), width=96),
        strict=True,
    ):
        assert sampled.density == whole.density
        assert sampled.measured is not None
        assert whole.measured is not None
        assert sampled.measured.model.num_sampled <= 4000 + 8
        for name in LayerFacts.__dataclass_fields__:
            got, expected = getattr(sampled.measured.model, name), getattr(whole.measured.model, name)
            if name != "num_sampled" and expected is not None:
                assert got == pytest.approx(expected, abs=0.05), name  # five standard deviations of 4,000 draws


def test_facts_between_cost_nothing_and_are_absent_and_touched_entries_are_not_forgotten() -> None:
    seen = train(MaskSpec(mask_ratio=0.8), steps=7, facts_every=3)
    assert [facts.measured is not None for facts, _ in seen] == [True, False, True, False, False, True, False]
    assert all(facts.density == pytest.approx(every["kept"] / every["n"]) for facts, every in seen)
    facts, every = seen[5]
    assert facts.measured is not None
    assert facts.measured.model.overlap == pytest.approx(every["and"] / every["or"])
    assert facts.measured.model.touched_fraction == pytest.approx(every["touched"] / every["n"])
    assert all(facts.measured is None for facts, _ in train(MaskSpec(mask_ratio=0.8), facts_every=0))


def test_the_plain_optimizer_is_measured_too() -> None:
    facts = train(MaskSpec(mask_ratio=0))[0][0]
    assert facts.density == 1
    assert facts.measured is not None
    assert facts.measured.model.energy_kept == 1
    assert facts.measured.model.moved_fraction == pytest.approx(1 - facts.measured.model.zero_fraction)


def test_no_gradient_at_all_is_no_error() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, scope="global"))
    optimizer.step()
    facts = mask.facts()
    assert facts is not None
    assert (facts.step, facts.num_entries) == (1, 0)


def test_sums_taken_together_are_those_taken_one_by_one() -> None:
    torch.manual_seed(0)

    def seen(num: int) -> _SampledEntries:
        masks = {f"{name}_S": torch.rand(num) < 0.5 for name in ("moved", "kept", "last", "has_last", "touched")}
        gradient_S = torch.randn(num) * (torch.rand(num) < 0.8)
        return _SampledEntries(gradient_S=gradient_S, before_S=torch.randn(num), after_S=torch.randn(num), **masks)

    every = [seen(num) for num in (5, 1, 300)]
    together, alone = torch.stack(_sums_together(every)), torch.stack([_sums(one) for one in every])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("signal", ["gradient", "weight_magnitude", "random"])
def test_a_measured_step_holds_no_gradient_after_it(signal: str) -> None:
    """Even without a garbage collection, which would come too late for the memory of the next step."""
    model = a_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal=signal), facts_every=1)
    forward(model, torch.randn(5, 12)).backward()
    gradients = [StorageWeakRef(p.grad.untyped_storage()) for p in model.parameters() if p.grad is not None]
    gc.disable()
    try:
        optimizer.step()
        optimizer.zero_grad()
        assert mask.facts() is not None
        assert [gradient.expired() for gradient in gradients] == [True] * 6
    finally:
        gc.enable()
