"""The Triton kernels against the CPU's selection, run in Triton's interpreter on small tensors.

A copy of the kernels is loaded with the interpreter turned on; nothing outside these tests sees it.
"""

import itertools
import math
import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach, engine, entries, random_bits, select_by_bracket, support
from gmt.masking.counting import as_bits, fields
from gmt.masking.engine import NonFiniteGradientError
from gmt.masking.packing import pack
from gmt.masking.rule import LARGEST_BITS, Rule, Scores, Selection
from gmt.masking.select_by_fields import find_by_fields
from gmt.masking.selection import select
from tests.signals import WITHOUT_ACTIVATIONS
from tests.triton_kernels import BRACKET, DTYPES, ENTRIES, Doubled, assert_same, by_triton, interpreted, scores

pytest.importorskip("triton")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return interpreted(monkeypatch)


def adversarial() -> dict[str, Tensor]:
    torch.manual_seed(0)
    step = torch.randperm(400, dtype=torch.int32)
    bits = {
        f"all in one bin but for bits from {shift}": 0x3F800000 + (step % 8 << shift) for shift in (0, 9, 10, 19, 20)
    }
    bits |= {
        "all in one bin of two rounds": 0x3F800000 + step,
        "bits": torch.randint(0, 1 << 31, (400,), dtype=torch.int32),
    }
    floats = {name: some.view(torch.float32) for name, some in bits.items() if name != "bits"}
    return floats | {
        "bits": bits["bits"],
        "equal": torch.full((500,), -0.3),
        "ties": torch.randint(-3, 4, (450,)).float(),
        "zeros": torch.zeros(350),
        "zeros of both signs among few": torch.cat([torch.zeros(200), -torch.zeros(150), torch.randn(40)]),
        "denormals": torch.cat([torch.arange(300, dtype=torch.int32).view(torch.float32), torch.zeros(9)]),
        "one": torch.tensor([-2.0]),
        "one zero": torch.tensor([0.0]),
        "NaN": torch.tensor([1.0, float("nan"), 2.0]),
        "Inf": torch.tensor([1.0, -float("inf"), 2.0, 0.0]),
        "empty": torch.zeros(0),
    }


@pytest.mark.parametrize(
    ("ratio", "keep", "rank_zeros"),
    [(0.6, "largest", False), (0.6, "smallest", False), (0.7, "largest", True), (0.0, "smallest", True)],
)
def test_adversarial_tensors_are_selected_as_on_the_cpu(
    kernels: ModuleType, ratio: float, keep: str, rank_zeros: bool
) -> None:
    assert_same(kernels, [scores(x) for x in adversarial().values()], ratio, keep=keep, rank_zeros=rank_zeros)


@pytest.mark.parametrize(
    ("dtype", "keep"),
    [
        *((dtype, "largest") for dtype in DTYPES),
        (torch.float32, "smallest"),
        *(pytest.param(dtype, "smallest", marks=pytest.mark.slow) for dtype in DTYPES[1:]),
    ],
)
def test_random_groups_of_several_tensors_are_selected_as_on_the_cpu(
    kernels: ModuleType, dtype: torch.dtype, keep: str
) -> None:
    torch.manual_seed(1)
    xs = [(torch.randn(n) * 10.0**e).to(dtype) for n, e in ((1900, 0), (129, -3), (0, 0), (128, -6), (1, 1))]
    mixed = scores(*xs, torch.randn(300), torch.randn(300).half())
    assert_same(kernels, [scores(*xs), *(scores(x) for x in xs), mixed], 0.8, keep=keep)


@pytest.mark.parametrize(
    ("dtype", "keep", "rank_zeros"),
    [
        (torch.float32, "largest", False),
        (torch.float32, "smallest", False),
        pytest.param(torch.bfloat16, "largest", False, marks=pytest.mark.slow),
        pytest.param(torch.float16, "largest", False, marks=pytest.mark.slow),
        pytest.param(torch.int32, "smallest", True, marks=pytest.mark.slow),
    ],
)
def test_a_sample_bounds_thresholds(kernels: ModuleType, dtype: torch.dtype, keep: str, rank_zeros: bool) -> None:
    """Of many zeros and of ties too, and over tensors of which a sample sees few entries."""
    torch.manual_seed(2)
    xs = [torch.randn(1600), torch.randn(300) * 10, torch.zeros(1000), torch.ones(900), torch.randn(3)]
    xs = [as_bits(x) for x in xs] if dtype == torch.int32 else [x.to(dtype) for x in xs]
    groups = [scores(xs[0]), scores(*xs), scores(xs[0], xs[2]), scores(xs[3]), scores(xs[0], xs[3])]
    for ratio in (0.1, 0.8):
        rule = Rule(mask_ratio=ratio, smallest=keep == "smallest", rank_zeros=rank_zeros)
        with by_triton(kernels):
            found = select_by_bracket.select_by_bracket(groups, rule)
        expected = dict(enumerate(select(groups, ratio, keep=keep, rank_zeros=rank_zeros)))
        assert {i: expected[i] for i in found} == found
        assert len(found) >= 4  # the bounds of few samples may be too wide for the buffer


def test_what_lies_outside_a_samples_bounds_is_not_found(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    x, rule = torch.randn(3000), Rule(mask_ratio=0.7, smallest=False, rank_zeros=False)
    bracket = sys.modules[BRACKET]
    monkeypatch.setattr(
        bracket, "write_samples", lambda pieces, first_slots, counts, out: out.fill_(int(as_bits(torch.tensor(3.0))))
    )
    with by_triton(kernels):
        assert select_by_bracket.select_by_bracket([scores(x)], rule) == {}
        assert select([scores(x)], 0.7) == select([scores(x.double().float())], 0.7)


def test_gradients_on_other_devices_are_masked_too(kernels: ModuleType) -> None:
    """Where only some gradients lie on a device that Triton knows."""
    model = nn.Sequential(nn.Linear(9, 8), nn.Linear(8, 7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5))
    for p in model.parameters():
        p.grad = torch.randn(p.shape)
    answers = itertools.cycle([True, False])
    with by_triton(kernels), pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "has_triton", lambda device: next(answers))
        optimizer.step()
    assert all((p.grad == 0).sum() == p.numel() // 2 for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("keep", "scope"), [("largest", "tensor"), ("smallest", "global")])
@pytest.mark.parametrize("ruined", [None, math.nan, math.inf])
def test_gradients_are_masked_before_anything_is_waited_for(
    kernels: ModuleType, keep: str, scope: str, ruined: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They equal gradients that are masked without Triton; if one holds NaN or Inf, no gradient is masked."""
    masked, are_applied = {}, []
    mask_each = engine.zero_masked_each_

    def looked_at(every: Any, row: Any, selections: Any) -> None:
        are_applied.append([one.is_applied for one in selections.values()])
        mask_each(every, row, selections)

    monkeypatch.setattr(engine, "zero_masked_each_", looked_at)
    for is_triton in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(40, 30), nn.LayerNorm(30), nn.Linear(30, 20, bias=False))
        gradients = [torch.randn(p.shape) for p in model.parameters()]
        if ruined:
            gradients[-1][3, 4] = ruined
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attach(model, optimizer, MaskSpec(mask_ratio=0.6, keep=keep, scope=scope), facts_every=0)
        with by_triton(kernels) if is_triton else nullcontext():
            if ruined:
                with pytest.raises(NonFiniteGradientError, match="weight"):
                    optimizer.step()
            else:
                optimizer.step()
        masked[is_triton] = [p.grad for p in model.parameters() if p.grad is not None]
        if ruined:
            torch.testing.assert_close(masked[is_triton], gradients, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(masked[True], masked[False], rtol=0, atol=0, equal_nan=True)
    assert are_applied == ([] if ruined else [[False] * len(gradients), [True] * len(gradients)])


def test_counts_add_up_over_shards(kernels: ModuleType) -> None:
    x, y = torch.randn(700), torch.randn(300)
    shared = Doubled()
    for dtype in DTYPES:
        some, others = x.to(dtype), y.to(dtype)
        assert_same(kernels, [scores(some, shards=shared) + scores(others), scores(others)], 0.7)
        with by_triton(kernels):
            assert select([scores(some, shards=shared)], 0.7) == select([scores(some, some)], 0.7)


def test_a_group_counts_beyond_32_bits(kernels: ModuleType) -> None:
    class Many:
        def sum_(self, counts: Tensor) -> None:
            counts.mul_(1 << 31)

    (one,) = scores(torch.arange(1.0, 9))
    shared = Scores(chunks=one.chunks, dtype=one.dtype, num_entries=8 << 31, shards=Many(), device=one.device)
    with by_triton(kernels):
        (found,) = select([[shared]], 0.5)
    assert found.lowest == int(as_bits(torch.tensor(5.0)))
    assert found.num_kept == 4 << 31


def test_no_bit_is_read_that_is_always_zero() -> None:
    assert fields([torch.float32]) == fields([torch.bfloat16, torch.int32]) == ((23, 8), (15, 8), (7, 8), (0, 7))
    assert fields([torch.bfloat16]) == ((23, 8), (16, 7))
    assert fields([torch.bfloat16, torch.float16]) == ((23, 8), (15, 8), (13, 2))


def test_the_walk_never_waits_for_the_device(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors have no values: what needs one, and so would wait, fails."""
    monkeypatch.setattr(
        kernels, "field_counts", lambda parts, prefix_G, shift, width: prefix_G.new_zeros(len(parts), (1 << width) + 1)
    )
    groups = [scores(torch.zeros(5, device="meta")), scores(torch.zeros(6, device="meta"), shards=Doubled())]
    for smallest, rank_zeros in itertools.product((False, True), repeat=2):
        rule = Rule(mask_ratio=0.5, smallest=smallest, rank_zeros=rank_zeros)
        assert find_by_fields(groups, rule).shape == (2, 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("low", "high"), [(0.3, None), (None, 0.6), (0.3, 1.0), (2.0, 1.0), (None, None)])
def test_masking_equals_the_bounds(kernels: ModuleType, dtype: torch.dtype, low: float, high: float) -> None:
    x = torch.cat([torch.randn(2001), torch.zeros(7), torch.tensor([1e-7, -1e-7, 0.3, 0.6, 1.0])]).to(dtype)
    lowest = 1 if low is None else int(as_bits(torch.tensor(low).to(dtype)))
    highest = LARGEST_BITS if high is None else int(as_bits(torch.tensor(high).to(dtype)))
    bounds = Selection(lowest=lowest, highest=highest, num_entries=0, num_kept=0, is_finite=True)
    expected = bounds.keeps(as_bits(x))
    with by_triton(kernels):
        keep = entries.keep_mask(x, bounds)
    assert torch.equal(keep, expected)
    masked = x.clone()
    of_entries = sys.modules[ENTRIES]
    of_entries.zero_outside([(masked, None)], [0], of_entries.bounds_of([bounds], masked.device))
    assert torch.equal(masked, x * expected)
    restored = [torch.ones_like(x), torch.ones_like(x)[1:]]  # the second begins where it can't be read in one go
    before = [x, x[1:]]
    of_entries.restore_unkept(list(zip(restored, before, (keep, keep[1:]), strict=True)))
    assert torch.equal(restored[0], torch.where(expected, 1, x).to(dtype))
    assert torch.equal(restored[1], restored[0][1:])


def test_empty_tensors_are_masked(kernels: ModuleType) -> None:
    bounds = Selection(lowest=1, highest=2, num_entries=0, num_kept=0, is_finite=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "has_triton", lambda device: True)
        assert len(entries.keep_mask(torch.zeros(0), bounds)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_a_language_model_are_selected_as_on_the_cpu(kernels: ModuleType, dtype: torch.dtype) -> None:
    gradients = [p.grad.reshape(-1) for p in a_language_model(dtype).parameters() if p.grad is not None]
    assert len(gradients) > 10
    kernels.BLOCK = 256  # type: ignore[attr-defined]
    tensors = [scores(g) for g in gradients[::7]]
    assert_same(kernels, [scores(*gradients), *tensors], 0.8)


def a_language_model(dtype: torch.dtype) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).to(dtype)
    tokens = torch.randint(0, 60, (3, 12))  # the embeddings of the others get no gradient
    model(input_ids=tokens, labels=tokens).loss.backward()
    return model


@pytest.mark.parametrize(
    ("signal", "scope", "mask_on", "refresh"),
    [*((signal, "global", "gradient", 1) for signal in WITHOUT_ACTIVATIONS), ("gradient", "tensor", "update", 2)],
)
def test_training_under_a_mask_is_the_same(
    kernels: ModuleType, signal: str, scope: str, mask_on: str, refresh: int
) -> None:
    spec = MaskSpec(mask_ratio=0.7, signal=signal, scope=scope, mask_on=mask_on, refresh=refresh)
    expected = trained(spec)
    with by_triton(kernels):
        got = trained(spec)
    for name, weight in expected.items():
        assert torch.equal(got[name], weight), name


def trained(spec: MaskSpec) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    attach(model, optimizer, spec)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 5, 8)).square().sum().backward()
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("num_entries", [1, 7, 64, 65, 1000])
def test_kept_entries_are_gathered_and_scattered_as_by_the_mask(
    kernels: ModuleType, dtype: torch.dtype, num_entries: int
) -> None:
    torch.manual_seed(0)
    x_N = (100 * torch.randn(num_entries)).to(dtype)
    for keep_N in (torch.rand(num_entries) < 0.5, torch.ones(num_entries).bool()):
        with by_triton(kernels):
            bits = support.Support(pack(keep_N), num_entries, int(keep_N.sum()))
            x_K, y_N = bits.gather(x_N), torch.zeros_like(x_N)
            bits.scatter_(y_N, x_K)
        assert torch.equal(x_K, x_N[keep_N])
        assert torch.equal(y_N, torch.where(keep_N, x_N, 0))


def test_draws_are_those_of_the_cpu(kernels: ModuleType) -> None:
    key = random_bits.keys(3, 4, "a.weight")
    for start, num in ((0, 1), (0, 500), (12345, 129), (random_bits.MAX_ENTRIES - 200, 200)):
        expected = random_bits.random_bits(num, key, start=start, device=torch.device("cpu"))
        assert torch.equal(kernels.random_bits(num, key, start=start, device=torch.device("cpu")), expected)
