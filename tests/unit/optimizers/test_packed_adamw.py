"""AdamW on kept entries: the bits of torch's AdamW, in the memory of the kept entries."""

import copy
import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.optimizers.packed_adamw import PackedAdamW

SETTINGS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
SIZES = [(7, 9), (1,), (16, 16), (33,), (129, 5)]


class Given:
    """A chooser of supports that are given, for the parameters that have one."""

    def __init__(self, optimizer: PackedAdamW, masks: dict[nn.Parameter, Tensor]):
        for p, keep_N in masks.items():
            optimizer.keep(p, keep_N)
        self.num_dense = 0  # gradients that were there when another arrived
        self._parameters = list(masks)
        optimizer.follow(self)

    def arrived(self, p: nn.Parameter) -> bool:
        self.num_dense = max(self.num_dense, sum(q.grad is not None for q in self._parameters))
        return True

    def complete(self) -> None:
        pass


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(*size).to(dtype)) for size in SIZES]


def masks_of(ps: list[nn.Parameter], share: float = 0.4) -> dict[nn.Parameter, Tensor]:
    generator = torch.Generator().manual_seed(1)
    masks = {p: torch.rand(p.numel(), generator=generator) < share for p in ps}
    for keep_N in masks.values():
        keep_N[-3:] = True  # those that fill no vector of the processor
    return masks


def backward(ps: list[nn.Parameter], number: int) -> None:
    torch.manual_seed(10 + number)
    sum((p.float() * torch.randn(p.shape)).sum() + (p.float() ** 2).sum() for p in ps).backward()  # type: ignore[union-attr]


def train(
    optimizer_of: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    after_step: Callable[[list[nn.Parameter], list[Tensor]], None] = lambda ps, before: None,
    *,
    dtype: torch.dtype = torch.float32,
    num_steps: int = 5,
    clip: Callable[[torch.optim.Optimizer, list[nn.Parameter]], object] = lambda optimizer, ps: None,
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    ps = parameters(dtype)
    optimizer = optimizer_of(ps)
    for step in range(num_steps):
        for micro in range(3):
            backward(ps, 3 * step + micro)
        before = [p.detach().clone() for p in ps]
        clip(optimizer, ps)
        optimizer.step()
        after_step(ps, before)
        optimizer.zero_grad()
    return ps, optimizer


def packed(ps: list[nn.Parameter]) -> PackedAdamW:
    optimizer = PackedAdamW(ps, **SETTINGS)
    Given(optimizer, masks_of(ps))
    return optimizer


def put_back(ps: list[nn.Parameter], before: list[Tensor]) -> None:
    """Take back what the optimizer did to entries that are not kept."""
    with torch.no_grad():
        for p, old, keep_N in zip(ps, before, masks_of(ps).values(), strict=True):
            p.copy_(torch.where(keep_N.view(p.shape), p, old))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_entries_get_the_bits_of_torchs_fused_adamw(dtype: torch.dtype) -> None:
    ours, optimizer = train(packed, dtype=dtype)
    theirs, reference = train(lambda ps: torch.optim.AdamW(ps, fused=True, **SETTINGS), put_back, dtype=dtype)
    for p, q, keep_N in zip(ours, theirs, masks_of(ours).values(), strict=True):
        assert torch.equal(p, q)
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[p][key], reference.state[q][key].flatten()[keep_N])


def test_without_a_support_it_is_torchs_fused_adamw() -> None:
    ours, _ = train(lambda ps: PackedAdamW(ps, **SETTINGS))
    theirs, _ = train(lambda ps: torch.optim.AdamW(ps, fused=True, **SETTINGS))
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_no_dense_gradient_outlives_its_tensor() -> None:
    ps = parameters()
    optimizer = PackedAdamW(ps, **SETTINGS)
    chooser = Given(optimizer, masks_of(ps))
    backward(ps, 0)
    assert chooser.num_dense == 1
    assert all(p.grad is None for p in ps)
    assert [g.shape for _, g in optimizer.gathered()] == [(int(m.sum()),) for m in masks_of(ps).values()]
    optimizer.step()
    assert not list(optimizer.gathered())


def test_the_state_takes_eight_bytes_a_kept_entry_and_a_bit_an_entry() -> None:
    p = nn.Parameter(torch.randn(1000, 64))
    for num_kept in (100, 5000):
        optimizer = PackedAdamW([p], **SETTINGS)
        Given(optimizer, {p: torch.arange(p.numel()) < num_kept})
        p.sum().backward()
        optimizer.step()
        num_bytes = sum(v.numel() * v.element_size() for v in optimizer.state[p].values())
        assert num_bytes - 4 <= 8 * num_kept + p.numel() / 8  # 4: the number of steps


def test_clipping_scales_to_the_norm_of_the_kept_entries() -> None:
    """The reference clips a dense gradient that is zero elsewhere."""

    def clip_reference(_: torch.optim.Optimizer, ps: list[nn.Parameter]) -> None:
        for p, keep_N in masks_of(ps).items():
            assert p.grad is not None
            p.grad *= keep_N.view(p.shape)
        norms.append(torch.nn.utils.clip_grad_norm_(ps, 0.5))

    norms: list[Tensor] = []
    found: list[Tensor] = []
    ours, _ = train(packed, clip=lambda optimizer, _: found.append(optimizer.clip_grad_norm_(0.5)))  # type: ignore[attr-defined]
    theirs, _ = train(
        lambda ps: torch.optim.AdamW(ps, fused=True, **SETTINGS), put_back, clip=clip_reference, num_steps=5
    )
    torch.testing.assert_close(found, norms)
    torch.testing.assert_close(ours, theirs)
    assert min(norms) > 1  # so that all steps are clipped


def refreshed(age: str, old: Tensor, new: Tensor) -> tuple[nn.Parameter, PackedAdamW]:
    p = nn.Parameter(torch.zeros(8))
    optimizer = PackedAdamW([p], **{**SETTINGS, "betas": (0.9, 0.999), "weight_decay": 0.0}, age=age)
    Given(optimizer, {p: old})
    for _ in range(50):
        (p * torch.arange(1.0, 9.0)).sum().backward()
        optimizer.step()
    optimizer.keep(p, new)
    return p, optimizer


@pytest.mark.parametrize("age", ["global", "own"])
def test_a_refresh_that_changes_nothing_leaves_the_bits(age: str) -> None:
    mask = torch.arange(8) < 4
    p, optimizer = refreshed(age, mask, mask)
    again, other = refreshed(age, mask, mask)
    other.keep(again, mask)
    assert optimizer.state[p].keys() == other.state[again].keys() == {"step", "exp_avg", "exp_avg_sq", "support"}
    assert all(torch.equal(value, other.state[again][key]) for key, value in optimizer.state[p].items())


@pytest.mark.parametrize(("age", "first_step"), [("own", 1.0), ("global", (1 - 0.9) / (1 - 0.999) ** 0.5)])
def test_stayers_carry_their_moments_and_newcomers_begin(age: str, first_step: float) -> None:
    """A newcomer's first step is lr by its own age; by the count of all, it is LIFT's 3.16 lr (at 0.9 and 0.999)."""
    old, new = torch.arange(8) < 4, torch.arange(8).remainder(2) == 0
    p, optimizer = refreshed(age, old, new)
    stayed = refreshed(age, old, old)[1].state.values()
    before = next(iter(stayed))["exp_avg"][[0, 2]]
    assert torch.equal(optimizer.state[p]["exp_avg"], torch.cat([before, torch.zeros(2)]))
    weight = p.detach().clone()
    (p * torch.arange(1.0, 9.0)).sum().backward()
    optimizer.step()
    moved = (weight - p.detach()) / SETTINGS["lr"]
    exact = first_step * ((1 - 0.999**51) ** 0.5 / (1 - 0.9**51) if age == "global" else 1.0)
    torch.testing.assert_close(moved, torch.tensor([1.0, 0, 1.0, 0, exact, 0, exact, 0]), rtol=1e-4, atol=1e-4)


def test_an_entry_that_comes_back_steps_like_a_fresh_one() -> None:
    p, optimizer = refreshed("own", torch.arange(8) < 4, torch.arange(8) >= 4)
    optimizer.keep(p, torch.arange(8) < 4)
    fresh = nn.Parameter(p.detach().clone())
    reference = torch.optim.AdamW([fresh], fused=True, **{**SETTINGS, "betas": (0.9, 0.999), "weight_decay": 0.0})
    for _ in range(3):
        for each, stepper in ((p, optimizer), (fresh, reference)):
            (each * torch.arange(1.0, 9.0)).sum().backward()
            stepper.step()
            stepper.zero_grad()
    torch.testing.assert_close(p[:4], fresh[:4], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_state_comes_back_from_a_checkpoint_bit_for_bit(dtype: torch.dtype) -> None:
    def step(ps: list[nn.Parameter], optimizer: PackedAdamW, number: int) -> None:
        backward(ps, number)
        optimizer.step()

    ps = parameters(dtype)
    optimizer = PackedAdamW(ps, **SETTINGS, age="own")
    Given(optimizer, masks_of(ps))
    step(ps, optimizer, 0)
    for p, keep_N in masks_of(ps, 0.02).items():
        optimizer.keep(p, keep_N)
    step(ps, optimizer, 1)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    copies = copy.deepcopy(ps)
    other = PackedAdamW(copies, **SETTINGS, age="own")
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert {s["support"].dtype for s in other.state.values()} == {torch.uint8, torch.int32}
    for number in (2, 3):
        step(ps, optimizer, number)
        step(copies, other, number)
    for p, q in zip(ps, copies, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(value, other.state[q][key]) for key, value in optimizer.state[p].items())


def test_other_layouts_step_as_contiguous_ones() -> None:
    weight, mask = torch.randn(6, 4), torch.arange(24).remainder(3) == 0
    ps = [nn.Parameter(weight.clone()), nn.Parameter(weight.t().contiguous().t())]
    for p in ps:
        optimizer = PackedAdamW([p], **SETTINGS)
        Given(optimizer, {p: mask})
        (p**2).sum().backward()
        optimizer.step()
    assert not ps[1].is_contiguous()
    assert torch.equal(*ps)


def test_a_grad_scaler_is_refused() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = PackedAdamW([p], **SETTINGS)
    Given(optimizer, {p: torch.ones(3, dtype=torch.bool)})
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(p.sum()).backward()
    with pytest.raises(ValueError, match="PackedAdamW works without a GradScaler"):
        scaler.step(optimizer)


def test_an_unknown_age_is_refused() -> None:
    with pytest.raises(ValueError, match="age must be one of global, own, got 'old'"):
        PackedAdamW([nn.Parameter(torch.ones(1))], age="old")


def test_a_dropped_model_and_its_optimizer_are_freed() -> None:
    """torch holds hooks where the garbage collector does not see that they hold the optimizer."""
    ps = parameters()
    optimizer = packed(ps)
    backward(ps, 0)
    optimizer.step()
    dropped = [weakref.ref(ps[0]), weakref.ref(optimizer)]
    del ps, optimizer
    gc.collect()
    assert [ref() for ref in dropped] == [None, None]
