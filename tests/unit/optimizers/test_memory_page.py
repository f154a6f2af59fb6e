"""docs/memory.md says what the formula says, and the formula what a training takes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from gmt.masking import MaskSpec, attach
from gmt.training.memory import state_bytes

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def memory() -> ModuleType:
    """The module benchmarks/memory.py, which imports its neighbours by their bare names."""
    spec = importlib.util.spec_from_file_location("memory_benchmark", ROOT / "benchmarks" / "memory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


@pytest.mark.parametrize("name", ["SmolLM2-135M", "Llama-3.2-1B", "Llama-2-7B"])
def test_the_page_holds_the_formulas_table(memory: ModuleType, name: str) -> None:
    assert memory.formula_table(name) in (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("way", ["plain AdamW", "masked moments", "packed", "packed, first micro-batch", "LoRA"])
def test_the_formula_is_the_state_of_a_training(memory: ModuleType, way: str) -> None:
    base = memory.model_of("nano", "cpu")
    need = memory.needs([p.numel() for p in base.parameters()])[way]
    model, optimizer, gradient_bytes = memory.stepper(way, base)
    tokens = torch.arange(16).view(2, 8)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        held = gradient_bytes()
        optimizer.step()
    if way == "LoRA":  # of the whole rank 4, where the same number of entries would be 4.2
        assert (memory.weight_bytes(model), state_bytes(optimizer)) == pytest.approx(
            (need.weights, need.state), rel=0.07
        )
        assert held == pytest.approx(need.gradients, rel=0.07)
        return
    assert memory.weight_bytes(model) == need.weights
    if way in ("plain AdamW", "masked moments"):
        assert (state_bytes(optimizer), held) == (need.state, need.gradients)
    else:  # zero gradients of unseen tokens are never kept, so that a support may be smaller
        assert 0.9 * need.state < state_bytes(optimizer) <= need.state
        assert 0 < held <= 4 * need.trained


def test_the_formula_is_that_of_bitsandbytes(memory: ModuleType) -> None:
    """Two bytes an entry and two scales for each 256 entries; float32 for tensors of fewer than 4,096."""
    need = memory.needs([4096, 100, 5000])["8-bit AdamW"]
    assert need.state == 2 * (4096 + 16 * 4) + 8 * 100 + 2 * (5000 + 20 * 4)
    assert (need.weights, need.gradients) == (4 * 9196, 4 * 9196)


def test_the_formula_is_what_masked_moments_hold_and_copy(memory: ModuleType) -> None:
    model = memory.model_of("nano", "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.95, refresh="once", mask_on="update", moments="masked"))
    held: list[int] = []

    def look(*_: object) -> None:
        assert mask._saved is not None
        copies = [
            *mask._saved._weights.values(),
            *(m for moments in mask._saved._moments.values() for m in moments.values()),
        ]
        held.append(sum(num_bytes(tensor) for tensor in (*mask._masks.values(), *copies)))

    optimizer.register_step_pre_hook(look)
    tokens = torch.arange(16).view(2, 8)
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    assert held[-1] == memory.needs([p.numel() for p in model.parameters()])["masked moments"].mask


def num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
