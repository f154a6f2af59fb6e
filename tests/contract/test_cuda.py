"""The mask on a GPU: the entries that the CPU chooses, the bits of torch's own AdamW, and checkpoints that go on."""

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach, entries, select_by_bracket, sparse_delta
from gmt.masking.counting import as_bits
from gmt.masking.deltas import apply_delta
from gmt.masking.packing import pack
from gmt.masking.random_bits import keys, random_bits
from gmt.masking.rule import Rule, Scores
from gmt.masking.select_by_fields import find_by_fields, select_by_fields
from gmt.masking.selection import select
from gmt.masking.support import Support
from gmt.optimizers.packed_adamw import PackedAdamW
from tests.signals import WITHOUT_ACTIVATIONS
from tests.triton_kernels import DTYPES, ENTRIES, scores

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda")
SETTINGS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
SAME_BITS = ("gradient", "random", "weight_magnitude")  # scores that no device rounds


def a_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 257), nn.LayerNorm(257), nn.Linear(257, 41, bias=False)).to(dtype)


def give_gradients(model: nn.Module, step: int) -> None:
    """The same gradients on any device."""
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype).to(p.device)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask_on", ["gradient", "update"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("signal", WITHOUT_ACTIVATIONS)
def test_the_entries_are_those_that_the_cpu_chooses(signal: str, scope: str, mask_on: str, dtype: torch.dtype) -> None:
    moved = {}
    for device in ("cpu", "cuda"):
        model = a_model(dtype).to(device)
        before = weights(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0, fused=True)
        attach(model, optimizer, MaskSpec(mask_ratio=0.7, signal=signal, scope=scope, mask_on=mask_on))
        give_gradients(model, 1)
        optimizer.step()
        moved[device] = torch.cat([(before[name] != p).flatten() for name, p in weights(model).items()])
    differing = (moved["cpu"] != moved["cuda"]).float().mean()
    assert 0.2 < moved["cpu"].float().mean() < 0.4
    assert differing == 0 if signal in SAME_BITS else differing < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask_ratio", [0.5, 0.99], ids=["bits", "indices"])
def test_packed_training_has_the_bits_of_torchs_fused_adamw(mask_ratio: float, dtype: torch.dtype) -> None:
    spec: dict[str, Any] = {"mask_ratio": mask_ratio, "signal": "random", "refresh": "once", "mask_on": "update"}
    packed, masked = a_model(dtype).to(GPU), a_model(dtype).to(GPU)
    ours = PackedAdamW(packed.parameters(), **SETTINGS)
    attach(packed, ours, MaskSpec(**spec, moments="packed"))
    theirs = torch.optim.AdamW(masked.parameters(), fused=True, **SETTINGS)
    attach(masked, theirs, MaskSpec(**spec, moments="masked"))
    for step in range(5):
        for model, optimizer in ((packed, ours), (masked, theirs)):
            torch.manual_seed(step)
            for _ in range(2):
                model(torch.randn(8, 300, device=GPU, dtype=dtype)).float().square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for (name, p), q in zip(packed.named_parameters(), masked.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_packed_backward_pass_waits_for_nothing() -> None:
    model = a_model().to(GPU)
    optimizer = PackedAdamW(model.parameters(), **SETTINGS)
    spec = MaskSpec(mask_ratio=0.5, signal="random", refresh="once", mask_on="update", moments="packed")
    attach(model, optimizer, spec, facts_every=0)
    x = torch.randn(8, 300, device=GPU)
    for step in range(3):
        torch.cuda.set_sync_debug_mode("error" if step == 2 else "default")
        try:
            model(x).square().sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(p.grad is None for p in model.parameters())  # gathered as it arrived
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_kept_entries_are_gathered_and_scattered_as_by_the_mask(dtype: torch.dtype) -> None:
    for num_entries in (1, 2047, 2048, 2049, 3_000_001):
        keep_N = torch.rand(num_entries, device=GPU) < 0.3
        x_N = torch.randn(num_entries, device=GPU, dtype=dtype)
        bits = Support(pack(keep_N), num_entries, int(keep_N.sum()))
        x_K, y_N = bits.gather(x_N), torch.zeros_like(x_N)
        bits.scatter_(y_N, x_K)
        assert torch.equal(x_K, x_N[keep_N])
        assert torch.equal(y_N, x_N * keep_N)


@pytest.mark.parametrize("keep", ["largest", "smallest"])
@pytest.mark.parametrize("signal", ["gradient", "random", "weight_times_gradient"])
def test_tensors_that_are_sampled_are_masked_as_on_the_cpu(
    signal: str, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select_by_bracket, "_ENTRIES_AT_ONCE", 1 << 22)
    masked = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2000, 1500), nn.Linear(1500, 1000)).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attach(model, optimizer, MaskSpec(mask_ratio=0.9, signal=signal, keep=keep))
        give_gradients(model, 1)
        optimizer.step()
        masked[device] = torch.cat([p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None])
    assert torch.equal(masked["cpu"], masked["cuda"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", ["largest", "smallest"])
def test_one_batch_of_many_sampled_groups_is_selected_as_by_fields(keep: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    xs = [(torch.randn(1_500_000 + 16 * i, device=GPU) * 10.0**-i).to(dtype) for i in range(9)]
    xs[3][::2], xs[4][::3] = 0, 1e-3  # zeros and ties
    groups = [scores(xs[i], *(xs[:i] if i == 5 else [])) for i in range(9)]
    rule = Rule(mask_ratio=0.8, smallest=keep == "smallest", rank_zeros=False)
    found = select_by_bracket.select_by_bracket(groups, rule)
    assert len(found) >= 8  # a sample may mislead, rarely
    by_fields = select_by_fields(groups, rule)
    assert {i: by_fields[i] for i in found} == found


def test_a_group_of_more_than_2_to_the_32_entries_is_sampled_too() -> None:
    x = torch.randn(1 << 26, device=GPU).to(torch.bfloat16)
    one = Scores(
        chunks=lambda: iter([x] * 65), dtype=x.dtype, num_entries=65 << 26, shards=None, device=GPU, is_view=True
    )
    rule = Rule(mask_ratio=0.8, smallest=False, rank_zeros=False)
    (found,) = select_by_bracket.select_by_bracket([[one]], rule).values()
    assert found.lowest == select([scores(x)], 0.8)[0].lowest


def test_draws_are_those_of_the_cpu() -> None:
    key = keys(1, 2, "a.weight")
    for start, num in ((0, 1), (0, 1_000_003), ((1 << 31) - 5000, 5000)):
        here = random_bits(num, key, start=start, device=GPU)
        assert torch.equal(here.cpu(), random_bits(num, key, start=start, device=torch.device("cpu")))


@pytest.mark.parametrize("moments", ["dense", "masked", "packed"])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(moments: str) -> None:
    def begun() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        model = a_model().to(GPU)
        kind = PackedAdamW if moments == "packed" else torch.optim.AdamW
        optimizer = kind(model.parameters(), **SETTINGS)
        spec = MaskSpec(mask_ratio=0.6, refresh=2, mask_on="update", moments=moments)
        return model, optimizer, attach(model, optimizer, spec)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            torch.manual_seed(number)
            model(torch.randn(8, 300, device=GPU)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer, mask = begun()
    steps(model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), mask.state_dict()))
    steps(model, optimizer, range(3, 6))
    again, resumed, new_mask = begun()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    new_mask.load_state_dict(saved[2])
    steps(again, resumed, range(3, 6))
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_mixed_precision_with_a_scaler_masks_what_the_optimizer_sees() -> None:
    model = a_model().to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0, fused=True)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.8, mask_on="update"), facts_every=1)
    scaler = torch.amp.GradScaler()
    for step in range(4):
        torch.manual_seed(step)
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(torch.randn(8, 300, device=GPU)).float().square().mean()
        scaler.scale(loss * (torch.inf if step == 1 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    facts = mask.facts()
    assert facts is not None
    assert facts.step == 3  # the step with Inf was skipped
    assert facts.density == pytest.approx(0.2, abs=0.01)
    assert facts.measured is not None
    assert facts.measured.model.moved_fraction <= 0.21


def test_a_delta_of_a_model_on_a_gpu_is_exact() -> None:
    model, base = a_model(torch.bfloat16).to(GPU), a_model(torch.bfloat16).to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    attach(model, optimizer, MaskSpec(mask_ratio=0.9, refresh="once", mask_on="update"))
    give_gradients(model, 1)
    optimizer.step()
    apply_delta(base, sparse_delta(model, base))
    for p, q in zip(model.parameters(), base.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_language_model_trains_in_bf16_under_a_mask() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    attach(model, optimizer, MaskSpec(mask_ratio=0.9))
    tokens = torch.randint(0, 512, (4, 64), device=GPU)
    losses = []
    for _ in range(40):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 2


def test_facts_are_those_of_the_cpu() -> None:
    measured = []
    for device in ("cpu", "cuda"):
        model = a_model().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        mask = attach(model, optimizer, MaskSpec(mask_ratio=0.7), facts_every=1)
        for step in range(3):
            give_gradients(model, step)
            optimizer.step()
        facts = mask.facts()
        assert facts is not None
        measured.append(facts.as_dict())
    on_cpu, on_gpu = ({k: v for k, v in one.items() if "seconds" not in k} for one in measured)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_gives_the_cpus_selection_without_waiting(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    xs = [torch.randn(n, device="cuda").to(dtype)[1:] for n in (2, 5000, 10_000_000)]  # [1:]: not aligned to 16 bytes
    rule = Rule(mask_ratio=0.8, smallest=False, rank_zeros=False)
    find_by_fields([scores(*xs)], rule)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        find_by_fields([scores(*xs)], rule)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    groups = [list(xs), *([x] for x in xs)]
    found = select([scores(*group) for group in groups], 0.8)
    assert found == select([scores(*(x.cpu() for x in group)) for group in groups], 0.8)
    of_entries = importlib.import_module(ENTRIES)
    for x in xs:
        kept = found[0].keeps(as_bits(x))
        assert torch.equal(entries.keep_mask(x, found[0]), kept)
        restored = torch.ones_like(x)
        of_entries.restore_unkept([(restored, x, kept)])
        assert torch.equal(restored, torch.where(kept, 1, x).to(dtype))
        of_entries.zero_outside([(x, None)], [0], of_entries.bounds_of([found[0]], x.device))
        assert torch.equal(x != 0, kept)
