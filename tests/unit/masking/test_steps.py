"""How optimizers call their step: with a closure, through a parent class, and one that breaks off."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from tests.signals import WITHOUT_ACTIVATIONS
from tests.unit.masking.conftest import model_and_batch

pytestmark = pytest.mark.usefixtures("counted_by")


def test_a_step_that_broke_off_leaves_nothing_for_the_next() -> None:
    model, batch = model_and_batch()

    def breaks(*_: object) -> None:
        raise MemoryError

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, mask_on="update"), facts_every=3)
    breaking = optimizer.register_step_pre_hook(breaks)
    model(batch).pow(2).sum().backward()
    with pytest.raises(MemoryError):  # at step 1, which would have been looked at
        optimizer.step()
    breaking.remove()
    optimizer.step()
    facts = mask.facts()
    assert facts is not None
    assert facts.step == 2
    assert facts.measured is None


def test_what_a_closure_computes_is_masked_and_computing_twice_is_refused() -> None:
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(batch).pow(2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    assert int((model.get_parameter("0.weight").grad == 0).sum()) == 15

    class Twice(torch.optim.SGD):
        def step(self, closure=None):  # type: ignore[no-untyped-def, override]
            closure()
            return super().step(closure)

    twice = Twice(model.parameters(), lr=0.1)
    attach(model, twice, MaskSpec(mask_ratio=0.5))
    with pytest.raises(ValueError, match="evaluates the gradient several times in a step"):
        twice.step(closure)


@pytest.mark.parametrize("mask_on", ["gradient", "update"])
def test_an_optimizer_that_calls_its_parents_step_is_masked_once(mask_on: str) -> None:
    class Child(torch.optim.SGD):
        def step(self, closure=None):  # type: ignore[no-untyped-def, override]
            return super().step(closure)

    model, batch = model_and_batch()
    torch.optim.SGD(model.parameters())  # from now on torch calls the hooks of the parent's step too
    child = Child(model.parameters(), lr=0.1)
    mask = attach(model, child, MaskSpec(mask_ratio=0.5, signal="random", mask_on=mask_on))
    for step in (1, 2):
        before = [p.detach().clone() for p in model.parameters()]
        child.zero_grad()
        model(batch).pow(2).sum().backward()
        child.step()
        moved = [int((p != q).sum()) for p, q in zip(model.parameters(), before, strict=True)]
        assert moved == [p.numel() - p.numel() // 2 for p in model.parameters()]
        facts = mask.facts()
        assert facts is not None
        assert facts.step == step


@pytest.mark.parametrize("signal", WITHOUT_ACTIVATIONS)
def test_the_default_dtype_changes_no_step(signal: str) -> None:
    weights = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        torch.set_default_dtype(dtype)
        try:
            mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal=signal), seed=1, facts_every=1)
            for step in range(3):
                for p in model.parameters():
                    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float32)
                optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
        facts = mask.facts()
        assert facts is not None
        weights.append(([p.detach() for p in model.parameters()], facts.measured))
    assert all(torch.equal(a, b) for a, b in zip(weights[0][0], weights[1][0], strict=True))
    assert weights[0][1] == weights[1][1]


def test_a_gradients_scale_is_read_once_in_a_step() -> None:
    """From a GPU's memory, which the host waits for."""
    reads = []

    class Scale:
        def __float__(self) -> float:
            reads.append(1)
            return 2.0

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5))
    optimizer.grad_scale = Scale()
    optimizer.register_step_pre_hook(lambda *_: setattr(optimizer, "grad_scale", None))  # which SGD itself refuses
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert len(reads) == 1


ADAMW = set(torch.optim.AdamW([nn.Parameter(torch.ones(1))]).defaults)


class GroupsOnly(torch.optim.AdamW):
    """Takes groups of exactly its own settings, as MuonWithAuxAdam does."""

    def __init__(self, groups: list[dict[str, Any]], lr: float = 0.1):
        assert all({"params", "role"} <= set(group) <= {"params", "role", *ADAMW} for group in groups)
        super().__init__(groups, lr=lr)


@pytest.mark.parametrize("spec", [{"signal": "first_moment"}, {"moments": "masked"}])
def test_an_optimizer_that_takes_groups_only_is_tried(spec: dict[str, str]) -> None:
    model = nn.Linear(3, 3)
    optimizer = GroupsOnly([{"params": list(model.parameters()), "role": "adam"}])
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)  # adds a setting to the groups
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, **spec))
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert mask.facts() is not None


class Zeroes(torch.optim.SGD):
    """A step that leaves nothing of a weight."""

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        for group in self.param_groups:
            for p in group["params"]:
                p.zero_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("signal", ["gradient", "random"])
def test_masked_weights_keep_every_bit_whatever_the_bits_say(signal: str, dtype: torch.dtype) -> None:
    model = nn.Linear(64, 50, bias=False).to(dtype)
    bits = model.weight.detach().view(torch.int32 if dtype == torch.float32 else torch.int16)
    bits[:5] = -1  # the NaN by which the C code marks entries that stay
    bits[5:10] = -2
    torch.manual_seed(0)
    model.weight.grad = torch.randn(50, 64).to(dtype)
    before = bits.clone()
    optimizer = Zeroes(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, signal=signal, mask_on="update"), facts_every=0)
    optimizer.step()
    assert torch.logical_or(bits == before, bits == 0).all()
    assert 1400 < int((bits == before).sum()) <= 1600 + 10  # ties at the threshold, and weights that were zero
    assert 120 < int((bits[:5] == -1).sum()) < 200


class Assigns(torch.optim.SGD):
    """Gives each parameter a new tensor instead of writing into its present tensor."""

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        for group in self.param_groups:
            for p in group["params"]:
                p.data = torch.zeros_like(p).t().contiguous().t() if group["dampening"] else torch.zeros_like(p)


@pytest.mark.parametrize("dampening", [0, 1])
def test_masked_weights_are_put_back_into_a_tensor_that_the_step_assigned(dampening: int) -> None:
    """The new tensor has the same layout in memory (dampening 0) or another one (dampening 1)."""
    model = nn.Linear(64, 50, bias=False)
    torch.manual_seed(0)
    model.weight.grad = torch.randn(50, 64)
    before = model.weight.detach().clone()
    optimizer = Assigns(model.parameters(), lr=0.1, dampening=dampening)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, mask_on="update"), facts_every=0)
    optimizer.step()
    assert int((model.weight == before).sum()) == 1600
    assert int((model.weight == 0).sum()) == 1600
