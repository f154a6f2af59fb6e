"""SPT: what trains where, within a budget, by sensitivities."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gmt.errors import UserError
from gmt.methods.sensitivity import Plan, Rule, candidates, plan, sensitivities
from gmt.methods.spt import SensitivityAware
from gmt.training.reshaping import Reshaping
from tests.architectures import tiny_model
from tests.unit.methods.few_steps import IDS, train_few_steps

RULE = Rule(rank=1, matrix_factor=2, vector_factor=5)  # a LoRA at 4 of a 5 x 3 matrix, a vector at a fifth
ADAPTER = "adapter_model.safetensors"


def with_chosen(shape: tuple[int, ...], num_chosen: int) -> Tensor:
    """Return sensitivities of which so many are 2, and the others 1."""
    x = torch.ones(shape)
    x.flatten()[:num_chosen] = 2.0
    return x


@pytest.mark.parametrize(
    ("shape", "num_chosen", "num_trained"),
    [((5, 3), 0, 0), ((5, 3), 3, 3), ((5, 3), 4, 8), ((5, 3), 15, 8), ((10,), 0, 0), ((10,), 1, 0), ((10,), 2, 10)],
)
def test_the_split_by_counts(shape: tuple[int, ...], num_chosen: int, num_trained: int) -> None:
    size = torch.Size(shape)
    assert RULE.num_trained(size, num_chosen) == num_trained
    budget = num_trained  # the entries of sensitivity 1 do not fit any more
    made = plan({"a.weight": with_chosen(shape, num_chosen)}, RULE, budget)
    if num_trained == 8:
        assert made == Plan(low_rank=["a"])
    elif num_trained == 10:
        assert made == Plan(whole=["a.weight"])
    else:
        assert {name: index.tolist() for name, index in made.entries.items()} == (
            {"a": list(range(num_trained))} if num_trained else {}
        )


def test_what_trains_never_falls_with_the_number_chosen_and_uses_the_budget() -> None:
    torch.manual_seed(0)
    measured = {"a.weight": torch.rand(5, 3), "b.weight": torch.rand(20, 30) / 3, "c.bias": torch.rand(10)}
    before = 0
    for budget in range(0, 90, 3):
        made = plan(measured, RULE, budget)
        total = 8 * ("a" in made.low_rank) + 50 * ("b" in made.low_rank) + 10 * len(made.whole)
        total += sum(map(len, made.entries.values()))
        assert before <= total <= budget
        before = total
    assert made.low_rank == ["a", "b"]
    assert made.whole == ["c.bias"]


def test_sensitivity_is_the_sum_of_squared_batch_gradients() -> None:
    model: Any = tiny_model("llama")
    named = candidates(model)
    assert not any("embed" in name or "lm_head" in name for name in named)
    batches = [{"input_ids": IDS + shift, "labels": IDS + shift} for shift in (0, 5)]
    expected = {name: torch.zeros_like(p) for name, p in named.items()}
    for batch in batches:
        model.zero_grad()
        model(**batch).loss.backward()
        for name, p in named.items():
            expected[name] += p.grad**2
    model.zero_grad()
    measured = sensitivities(model, named, batches)
    for name, x in measured.items():
        torch.testing.assert_close(x, expected[name])
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def spt(**changes: Any) -> SensitivityAware:
    settings = {"name": "spt", "trainable_ratio": 0.02, "rank": 2, "alpha": 2, "matrix_factor": 10, "vector_factor": 5}
    return SensitivityAware(**{**settings, "num_examples": 4, "batch_size": 2, **changes})


class Examples:
    """Four rows, in the order of their draw."""

    rows = tuple({"input_ids": ((IDS + shift) % 50).tolist()[0]} for shift in (0, 5, 9, 20))
    device = "cpu"

    def batches(self, num_rows: int, size: int, *, seed: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, num_rows, size):
            ids = torch.tensor([row["input_ids"] for row in self.rows[start : start + size]])
            yield {"input_ids": ids, "labels": ids}


@pytest.mark.heavy  # imports peft
def test_it_begins_as_the_base_trains_its_parts_alone_and_merges_them(tmp_path: Path) -> None:
    model: Any = tiny_model("llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    budget = int(0.1 * sum(p.numel() for p in candidates(model).values()))
    logits = model(input_ids=IDS).logits
    examples: Any = Examples()
    reshaping = Reshaping(spt(trainable_ratio=0.1, vector_factor=32), model, seed=1, examples=examples)
    assert torch.equal(model(input_ids=IDS).logits, logits)
    assert 0.5 * budget < reshaping.sizes.num_trainable <= budget
    train_few_steps(model, steps=2, lr=0.01)
    logits = model(input_ids=IDS).logits
    reshaping.save(tmp_path)
    reshaping.finish()
    torch.testing.assert_close(model(input_ids=IDS).logits, logits)
    entries, vectors = (load_file(tmp_path / f"{name}.safetensors") for name in ("entries", "vectors"))
    lora = {key.split(".lora_")[0].split("base_model.model.")[1] for key in load_file(tmp_path / ADAPTER)}
    assert lora
    for name, p in model.named_parameters():
        layer = name.removesuffix(".weight")
        if f"{layer}.index" in entries:
            flat = before[name].flatten().index_add(0, entries[f"{layer}.index"], entries[f"{layer}.values"])
            assert torch.equal(p.flatten(), flat)
        elif name in vectors:
            assert torch.equal(p, vectors[name])
        else:
            assert torch.equal(p, before[name]) == (layer not in lora), name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trainable_ratio": 0}, r"method\.trainable_ratio must lie in \(0, 1\], got 0"),
        ({"trainable_ratio": 1e-9}, r"method\.trainable_ratio must leave room .* 0 parameters do not, got 1e-09"),
        ({"matrix_factor": 0.5}, r"method\.matrix_factor must be at least 1, got 0\.5"),
        ({"num_examples": 0}, r"method\.num_examples must be a whole number of at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    examples: Any = Examples()
    with pytest.raises(UserError, match=sentence):
        Reshaping(spt(**changes), tiny_model("llama"), seed=1, examples=examples)


def test_a_rank_above_a_matrix_is_refused_without_weights() -> None:
    with pytest.raises(UserError, match=r"method\.rank must be at most \d+, the smaller side of model\..*, got 99"):
        Reshaping(spt(rank=99), tiny_model("llama"), seed=1)
