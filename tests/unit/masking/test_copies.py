"""One mask for an optimizer, and a copy of a masked optimizer says that it has none."""

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import nn

from gmt.masking import MaskSpec, attach
from gmt.optimizers.cautious import CautiousAdamW
from gmt.optimizers.muon import MuonWithAdamW
from gmt.optimizers.packed_adamw import PackedAdamW
from tests.unit.masking.conftest import model_and_batch

SPEC = MaskSpec(mask_ratio=0.5)
PACKED = MaskSpec(mask_ratio=0.5, mask_on="update", refresh="once", moments="packed", signal="random")
Pair = tuple[nn.Module, torch.optim.Optimizer]


def pickled(pair: Pair) -> Pair:
    found: Pair = pickle.loads(pickle.dumps(pair))
    return found


def pickled_in_python(pair: Pair) -> Pair:
    file = io.BytesIO()
    pickle._Pickler(file, protocol=2).dump(pair)  # type: ignore[attr-defined]
    found: Pair = pickle.loads(file.getvalue())
    return found


def saved(pair: Pair) -> Pair:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    found: Pair = torch.load(file, weights_only=False)
    return found


def shipped(pair: Pair) -> Pair:
    import cloudpickle

    found: Pair = pickle.loads(cloudpickle.dumps(pair))
    return found


COPIES: list[Callable[[Pair], Pair]] = [
    copy.deepcopy,
    pickled,
    pickled_in_python,
    saved,
    shipped,
    lambda pair: copy.deepcopy(pickled(pair)),
    lambda pair: (pair[0], copy.copy(pair[1])),
]


def a_pair(make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW) -> Pair:
    model, _ = model_and_batch()
    return model, make(model.parameters(), lr=0.1)


def muon(params: Iterable[nn.Parameter], lr: float) -> MuonWithAdamW:
    return MuonWithAdamW([{"params": [p], "is_matrix": p.ndim == 2} for p in params], lr=lr, momentum=0.9)


with_own_ages = partial(PackedAdamW, age="own")
MASKED = [(torch.optim.AdamW, SPEC), (PackedAdamW, PACKED), (with_own_ages, PACKED)]
PLAIN = [torch.optim.AdamW, PackedAdamW, with_own_ages, muon, CautiousAdamW]


def step(pair: Pair) -> list[torch.Tensor]:
    model, optimizer = pair
    optimizer.zero_grad()
    model(model_and_batch()[1]).pow(2).sum().backward()
    optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize(("make", "spec"), MASKED)
@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("num_steps", [0, 2])
def test_a_copy_of_a_masked_optimizer_steps_with_a_mask_of_its_own_only(
    copied: Callable[[Pair], Pair], num_steps: int, make: Callable[..., torch.optim.Optimizer], spec: MaskSpec
) -> None:
    pair = a_pair(make)
    attach(*pair, spec)
    for _ in range(num_steps):
        step(pair)
    model, optimizer = copied(pair)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(
        ValueError, match="is a copy of one with a mask, and copies have none: attach a mask to the copy"
    ):
        step((model, optimizer))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    mask = attach(model, optimizer, spec)
    if model is not pair[0]:
        assert all(torch.equal(p, q) for p, q in zip(step((model, optimizer)), step(pair), strict=True))
    mask.detach()
    step(copied((model, optimizer)))


@pytest.mark.parametrize("make", PLAIN)
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_an_optimizer_whose_mask_was_detached_is_a_plain_one(
    copied: Callable[[Pair], Pair], make: Callable[..., torch.optim.Optimizer]
) -> None:
    pair = a_pair(make)
    attach(*pair, SPEC).detach()
    copied_pair, plain = copied(pair), a_pair(make)
    for _ in range(2):
        assert all(torch.equal(p, q) for p, q in zip(step(copied_pair), step(plain), strict=True))


def test_a_copy_that_would_lose_gathered_gradients_is_refused() -> None:
    pair = a_pair(PackedAdamW)
    attach(*pair, PACKED)
    step(pair)
    pair[0](model_and_batch()[1]).pow(2).sum().backward()
    with pytest.raises(ValueError, match=r"can be copied between steps only, and holds gradients of \d+ parameters"):
        copy.deepcopy(pair)


def test_a_second_mask_is_refused_until_the_first_is_detached() -> None:
    model, optimizer = a_pair()
    first = attach(model, optimizer, SPEC)
    for spec in (SPEC, MaskSpec(mask_ratio=0.5, exclude=("0.*",))):
        with pytest.raises(ValueError, match="this optimizer has a mask already: call detach"):
            attach(model, optimizer, spec)
    first.detach()
    second = attach(model, optimizer, SPEC)
    step((model, optimizer))
    facts = second.facts()
    assert facts is not None
    assert facts.density == pytest.approx(0.5, abs=0.05)


def test_checkpoints_hold_nothing_of_the_mask() -> None:
    plain, masked = a_pair(), a_pair()
    attach(*masked, MaskSpec(mask_ratio=0))
    step(plain)
    step(masked)
    assert str(plain[1].state_dict()) == str(masked[1].state_dict())
