"""How optimizers call their step: with a closure, through a parent class, and one that breaks off."""

import pytest
import torch
from torch import Tensor

from gmt.masking import MaskSpec, attach
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
