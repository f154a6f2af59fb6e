"""The Triton kernels against the CPU's selection: run in Triton's interpreter on small tensors, and compiled.

A copy of triton_kernels.py is loaded with the interpreter turned on; nothing outside these tests sees it. Small
blocks and few programs make every program take several blocks.
"""

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach, entries, select_alone, select_by_fields
from gmt.masking.counting import as_bits, fields
from gmt.masking.rule import LARGEST_BITS, Rule, Scores, Selection
from gmt.masking.select_by_fields import find_by_fields
from gmt.masking.selection import select
from gmt.masking.spec import KEEP
from tests.signals import WITHOUT_ACTIVATIONS

triton = pytest.importorskip("triton")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAME = "gmt.masking.triton_kernels"


def loaded(patch: pytest.MonkeyPatch, *, interpreted: bool) -> ModuleType:
    """A copy of the kernels, which the rest of the program finds until the patch is undone."""
    patch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patch.setitem(sys.modules, NAME, module)
    return module


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = loaded(monkeypatch, interpreted=True)
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(module, "num_programs", lambda device: 3)
    monkeypatch.setattr(select_alone, "CHUNK", 1500)
    return module


@contextmanager
def by_triton(kernels: ModuleType) -> Iterator[None]:
    """Sends tensors on the CPU the way of those on CUDA; fails if none arrives."""
    launch, launched = kernels._launch, []

    def counted(kernel: Any, *arguments: Any) -> None:
        launched.append(kernel)
        launch(kernel, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_launch", counted)
        patch.setattr(entries, "has_triton", lambda device: True)
        patch.setattr(select_by_fields, "has_triton", lambda device: True)
        patch.setattr(select_alone, "_is_alone", lambda group: False)
        yield
    assert launched


class Doubled:
    """Two shards that hold the same."""

    def sum_(self, counts: Tensor) -> None:
        counts.mul_(2)


def scores(*tensors: Tensor, shards: Doubled | None = None) -> list[Scores]:
    return [
        Scores(
            chunks=lambda t=t: iter(t.split(select_alone.CHUNK)),
            dtype=t.dtype,
            num_entries=len(t) * (2 if shards else 1),
            shards=shards,
            device=t.device,
        )
        for t in tensors
    ]


def assert_same(kernels: ModuleType, groups: list[list[Scores]], ratio: float, **rule: Any) -> None:
    expected = select(groups, ratio, **rule)
    with by_triton(kernels):
        assert select(groups, ratio, **rule) == expected


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", KEEP)
def test_random_groups_of_several_tensors_are_selected_as_on_the_cpu(
    kernels: ModuleType, dtype: torch.dtype, keep: str
) -> None:
    torch.manual_seed(1)
    xs = [(torch.randn(n) * 10.0**e).to(dtype) for n, e in ((1900, 0), (129, -3), (0, 0), (128, -6), (1, 1))]
    mixed = scores(*xs, torch.randn(300), torch.randn(300).half())
    assert_same(kernels, [scores(*xs), *(scores(x) for x in xs), mixed], 0.8, keep=keep)


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
    assert fields([torch.float32]) == fields([torch.bfloat16, torch.int32]) == ((20, 11), (10, 10), (0, 10))
    assert fields([torch.bfloat16]) == ((20, 11), (16, 4))
    assert fields([torch.bfloat16, torch.float16]) == ((20, 11), (13, 7))


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
    assert torch.equal(kernels.keep_inside(x, lowest, highest), expected)
    masked = x.clone()
    kernels.zero_outside(masked, lowest, highest)
    assert torch.equal(masked, x * expected)


def test_empty_tensors_are_masked(kernels: ModuleType) -> None:
    kernels.zero_outside(torch.zeros(0), 1, 2)
    assert len(kernels.keep_inside(torch.zeros(0), 1, 2)) == 0


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


@pytest.mark.parametrize("kind", ["i32", "i16", "fp16"])
def test_the_kernels_compile_for_nvidia_gpus(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler refuses things that the interpreter takes. It needs no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = loaded(monkeypatch, interpreted=False)
    x, block = {"x_N": f"*{kind}"}, {"BLOCK": kernels.BLOCK}
    counts = {"prefix_G": "*i64", "total_GK": "*i64", "group": "i32"}
    bounds = {"lowest": "i32", "highest": "i32"}
    dtype = {"i32": torch.float32, "i16": torch.bfloat16, "fp16": torch.float16}[kind]
    for size in ({"size": "i32"}, {"size": "i64"}):
        assert machine_code(kernels._zero_outside, x | size | bounds, block)
        assert machine_code(kernels._keep_inside, x | size | bounds | {"out_N": "*i8"}, block)
        for shift, width in fields([dtype]):
            assert machine_code(kernels._count_field, x | size | counts, block | {"SHIFT": shift, "WIDTH": width})


def machine_code(kernel: Any, types: dict[str, str], constants: dict[str, int]) -> bytes:
    source = triton.compiler.ASTSource(kernel, {**types, **dict.fromkeys(constants, "constexpr")}, constants)
    target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
    options = {"num_warps": 8, "enable_fp_fusion": False}
    code: bytes = triton.compile(source, target=target, options=options).asm["cubin"]
    return code


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
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
    kernels = importlib.import_module(NAME)
    for x in xs:
        kept = found[0].keeps(as_bits(x))
        assert torch.equal(kernels.keep_inside(x, found[0].lowest, found[0].highest), kept)
        kernels.zero_outside(x, found[0].lowest, found[0].highest)
        assert torch.equal(x != 0, kept)
