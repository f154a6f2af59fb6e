"""The entries that a step trains, and those that some step has trained, against a look at all weights."""

from typing import Any

import pytest
import torch

from gmt.masking import MaskSpec, attach
from tests.unit.masking.conftest import model_and_batch


def trained(**settings: Any) -> tuple[int, int | None, int, int]:
    """The mask's two counts after three steps, the entries that the last step moved, and those that any has moved."""
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(**{"mask_ratio": 0.6, "mask_on": "update"} | settings), facts_every=1)
    ever = [torch.zeros_like(p, dtype=torch.bool) for p in model.parameters()]
    last = 0
    for step in range(3):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        (model(batch + step) ** 2).sum().backward()
        optimizer.step()
        moved = [p != old for p, old in zip(model.parameters(), before, strict=True)]
        ever = [a | b for a, b in zip(ever, moved, strict=True)]
        last = sum(int(m.sum()) for m in moved)
    return mask.num_trained(), mask.num_touched(), last, sum(int(m.sum()) for m in ever)


@pytest.mark.parametrize("refresh", [1, 2, "once"])
@pytest.mark.parametrize("more", [{}, {"exclude": ("2.*",)}, {"exclude": ("2.*",), "excluded": "frozen"}])
def test_the_counts_are_those_of_the_weights(refresh: int | str, more: dict[str, Any]) -> None:
    num_trained, num_touched, moved, ever = trained(refresh=refresh, signal="random", **more)
    assert (num_trained, num_touched) == (moved, ever)
    assert (ever > moved) == (refresh != "once")


def test_a_ratio_of_zero_trains_every_entry() -> None:
    assert trained(mask_ratio=0) == (53, 53, 53, 53)
