"""Gradients and parameters of any layout stay the tensors that they are, and masks do not depend on the layout."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from gmt.masking.restoring import entries_share_memory
from tests.signals import WITHOUT_ACTIVATIONS
from tests.unit.masking.every_optimizer import SCHEDULE_FREE, case_id, cases

pytestmark = pytest.mark.heavy

SHAPE = (4, 6, 3, 2)
STEPS = 3


def with_strides(x: Tensor, strides: tuple[int, ...], offset: int = 0) -> Tensor:
    """The same entries in memory of these strides."""
    size = 1 + offset + sum(stride * (n - 1) for stride, n in zip(strides, x.shape, strict=True))
    return torch.full((size,), 7.0).as_strided(x.shape, strides, offset).copy_(x)


# Dense ones, every entry with an address of its own and none between them: what fused kernels of torch work with.
DENSE: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "channels_last": lambda x: x.clone(memory_format=torch.channels_last),
    "transposed": lambda x: with_strides(x, (1, 4, 24, 72)),
    "view in a flat buffer": lambda x: with_strides(x, x.stride(), offset=3),
}
SPARSE: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda x: with_strides(x, (72, 12, 4, 2), offset=1),
    "padded": lambda x: with_strides(x, (80, 12, 3, 1)),
}
SHARED: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda x: x[:1, :, :, :1].clone().expand(x.shape),
    "expanded from one": lambda x: x[:1, :1, :1, :1].clone().expand(x.shape),
    "overlapping": lambda x: x.flatten().clone().as_strided(x.shape, (10, 3, 2, 1)),
}
# For a parameter's layout those of its gradient: what autograd makes, and what users put there.
PAIRS = [(name, name) for name in DENSE | SPARSE] + [
    ("contiguous", name) for name in ("channels_last", "sliced", *SHARED)
] + [("channels_last", "expanded"), ("sliced", "contiguous")]  # fmt: skip
LAYOUTS = DENSE | SPARSE | SHARED
# The last settings of each optimizer are all its switches together, in each loop.
ALL_TOGETHER = [case for case in cases() if len(case[1]) > 3 and case[0] not in ("Muon", "ASGD", *SCHEDULE_FREE)]


def fits(case: tuple[str, dict[str, Any]], pair: tuple[str, str]) -> bool:
    """Whether torch itself steps right: fused kernels read memory as it lies, foreach may write into gradients."""
    if case[1].get("fused"):
        return pair[0] == pair[1] and pair[0] in DENSE
    return not (pair[1] in SHARED and case[1].get("foreach"))


class Run:
    """A weight in a layout that trains on given gradients in another."""

    def __init__(self, case: tuple[str, dict[str, Any]], pair: tuple[str, str], spec: MaskSpec | None):
        self.model = nn.Module()
        weight, self.gradients = torch.randn(SHAPE), [torch.randn(SHAPE) for _ in range(STEPS)]
        self.make = LAYOUTS[pair[1]]
        self.model.weight = nn.Parameter(LAYOUTS[pair[0]](weight))
        self.optimizer = getattr(torch.optim, case[0])(self.model.parameters(), **case[1])
        self.given: list[Tensor] = []
        if spec:
            attach(self.model, self.optimizer, spec, seed=3, facts_every=2)
        self.optimizer.register_step_pre_hook(lambda *_: self.given.append(self.model.weight.grad.clone()))

    def train(self, as_contiguous: bool = False) -> "Run":
        for values in self.gradients:
            gradient = self.make(values)
            if as_contiguous:
                gradient = gradient.contiguous()
            self.model.weight.grad = gradient
            layout = (gradient.data_ptr(), gradient.stride(), self.model.weight.data_ptr(), self.model.weight.stride())
            self.optimizer.step()
            assert self.model.weight.grad is gradient
            assert layout == (
                gradient.data_ptr(),
                gradient.stride(),
                self.model.weight.data_ptr(),
                self.model.weight.stride(),
            )
        return self

    def tensors(self) -> list[Tensor]:
        state = self.optimizer.state[self.model.weight].values()
        return [self.model.weight.detach(), *(v for v in state if isinstance(v, Tensor))]


def trained(case: Any, pair: tuple[str, str], spec: MaskSpec | None, as_contiguous: bool = False) -> Run:
    torch.manual_seed(0)
    return Run(case, pair, spec).train(as_contiguous)


@pytest.mark.parametrize("case", ALL_TOGETHER, ids=case_id)
def test_ratio_zero_is_no_mask_bit_for_bit_in_any_layout(case: Any) -> None:
    for pair in PAIRS:
        if fits(case, pair):
            plain, masked = (trained(case, pair, spec).tensors() for spec in (None, MaskSpec(mask_ratio=0)))
            assert all(torch.equal(a, b) for a, b in zip(plain, masked, strict=True)), pair


@pytest.mark.parametrize("mask_on", ["gradient", "update"])
@pytest.mark.parametrize("case", ALL_TOGETHER, ids=case_id)
def test_each_entry_is_masked_as_in_a_contiguous_twin(case: Any, mask_on: str) -> None:
    moments = "dense" if case[0] == "Adafactor" else "masked"
    signals = itertools.cycle(
        signal for signal in WITHOUT_ACTIVATIONS if signal != "first_moment"
    )  # which not all have
    for pair, signal in zip(PAIRS, signals, strict=False):
        spec = MaskSpec(mask_ratio=0.6, signal=signal, mask_on=mask_on, moments=moments, refresh=2)
        assert_as_twin(case, pair, spec)


@pytest.mark.parametrize("signal", WITHOUT_ACTIVATIONS)
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_each_signal_ranks_by_index_whatever_the_layout(pair: tuple[str, str], signal: str) -> None:
    for fused, mask_on in itertools.product((False, True), ("gradient", "update")):
        assert_as_twin(
            ("AdamW", {"lr": 0.1, "fused": fused, "foreach": False}),
            pair,
            MaskSpec(mask_ratio=0.6, signal=signal, mask_on=mask_on, moments="masked"),
        )


def assert_as_twin(case: Any, pair: tuple[str, str], spec: MaskSpec) -> None:
    """Holds a run against one whose weight and gradients are contiguous; other strides may round otherwise."""
    if not fits(case, pair):
        return
    torch.manual_seed(0)
    twin = Run(case, ("contiguous", pair[1]), spec).train(as_contiguous=True)
    run = trained(case, pair, spec)
    for mine, its in zip(run.given, twin.given, strict=True):
        assert torch.equal(mine != 0, its != 0), (pair, spec)
        assert torch.allclose(mine, its, rtol=1e-5, atol=1e-6), (pair, spec)
    for mine, its in zip(run.tensors(), twin.tensors(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-5, atol=1e-6), (pair, spec)


def test_a_step_that_broke_off_puts_a_replaced_gradient_back() -> None:
    run = Run(("SGD", {"lr": 0.1}), ("contiguous", "expanded"), MaskSpec(mask_ratio=0.5, signal="random"))

    def breaks(*_: object) -> None:
        raise MemoryError

    breaking = run.optimizer.register_step_pre_hook(breaks)
    gradient = run.model.weight.grad = LAYOUTS["expanded"](run.gradients[0])
    with pytest.raises(MemoryError):
        run.optimizer.step()
    breaking.remove()
    run.optimizer.step()
    assert run.model.weight.grad is gradient
    assert torch.equal(gradient, LAYOUTS["expanded"](run.gradients[0]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entries_that_share_memory_are_seen(layout: str) -> None:
    assert entries_share_memory(LAYOUTS[layout](torch.randn(SHAPE))) == (layout in SHARED)


def test_a_channels_last_network_with_a_fused_optimizer_learns_as_a_contiguous_one() -> None:
    losses: dict[str, list[float]] = {}
    for layout, ratio in itertools.product((torch.contiguous_format, torch.channels_last), (None, 0.0, 0.5)):
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).to(memory_format=layout)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        if ratio is not None:
            attach(model, optimizer, MaskSpec(mask_ratio=ratio))
        x, y = torch.randn(4, 3, 8, 8).to(memory_format=layout), torch.randn(4, 2, 4, 4)
        seen = losses.setdefault(str(ratio), [])
        for _ in range(20):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
        seen.append(loss.item())
    for contiguous, channels_last in losses.values():
        assert channels_last == pytest.approx(contiguous, rel=1e-3)


def test_buckets_of_ddp_are_masked_in_place(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = []
        for as_view in (False, True):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2)).to(
                memory_format=torch.channels_last
            )
            wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=as_view)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
            attach(wrapped, optimizer, MaskSpec(mask_ratio=0.5))
            for _ in range(3):
                optimizer.zero_grad(set_to_none=False)
                wrapped(torch.randn(2, 3, 3, 3)).square().sum().backward()
                addresses = [p.grad.data_ptr() for p in model.parameters()]
                optimizer.step()
                assert addresses == [p.grad.data_ptr() for p in model.parameters()]
                assert all(int((p.grad == 0).sum()) >= p.numel() // 2 for p in model.parameters())
            found.append([p.detach() for p in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    finally:
        torch.distributed.destroy_process_group()
