"""SNELL: a kernel of two factors, its largest entries, and nothing at the start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gmt.errors import UserError
from gmt.methods.computed_weights import chosen_layers
from gmt.methods.kernel_change import kernel, largest_or_tied
from gmt.methods.snell import Snell
from gmt.training.reshaping import Reshaping
from tests.architectures import tiny_model
from tests.unit.methods.few_steps import IDS, train_few_steps


def snell(**changes: Any) -> Snell:
    settings = {"name": "snell", "rank": 8, "scale": 0.1, "sparsity": 0.9, "targets": "all-linear", "layers": None}
    return Snell(**{**settings, **changes})


def test_the_kernel_is_a_difference_of_distances() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    by_hand = torch.tensor(
        [[0.1 * float((a[0, i] - b[0, j]).norm() - (a[1, i] - b[1, j]).norm()) for j in range(4)] for i in range(5)]
    )
    torch.testing.assert_close(kernel(a, b, 0.1), by_hand)


def test_an_exact_share_counts_and_ties_all_do() -> None:
    x = torch.tensor([[3.0, -1.0, 0.5], [-2.0, 1.0, 0.0]])
    assert largest_or_tied(x, 0.5).tolist() == [[True, True, False], [True, True, False]]  # -1 and 1 tie
    assert int(largest_or_tied(torch.randn(40, 50), 0.9).sum()) == 200
    assert largest_or_tied(torch.zeros(2, 3), 0.9).all()


def test_it_begins_as_the_base_trains_and_is_saved_as_it_is_merged(tmp_path: Path) -> None:
    model: Any = tiny_model("llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    logits, layers = model(input_ids=IDS).logits, chosen_layers(model, "all-linear")
    reshaping = Reshaping(snell(), model, seed=1)
    assert torch.equal(model(input_ids=IDS).logits, logits)
    assert reshaping.sizes.num_trainable == reshaping.sizes.num_added
    assert reshaping.sizes.num_added == sum(8 * sum(layer.weight.shape) for layer in layers.values())
    train_few_steps(model, steps=3, lr=0.01)
    logits = model(input_ids=IDS).logits
    reshaping.save(tmp_path)
    reshaping.finish()
    assert torch.equal(model(input_ids=IDS).logits, logits)
    saved = load_file(tmp_path / "factors.safetensors")
    for name, p in model.named_parameters():
        layer = name.removesuffix(".weight")
        if layer not in layers:
            assert torch.equal(p, before[name])
            continue
        change = kernel(saved[f"{layer}.of_outputs"], saved[f"{layer}.of_inputs"], 0.1)
        assert torch.equal(p, before[name] + change * largest_or_tied(change, 0.9))
        assert float((p != before[name]).float().mean()) == pytest.approx(0.1, abs=0.01)
        assert torch.linalg.matrix_rank(p - before[name]) > 8


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rank": 7}, r"method\.rank must be even, .* got 7"),
        ({"rank": 34}, r"method\.rank must be at most \d+, the smaller side of model\..*, got 34"),
        ({"scale": 0}, r"method\.scale must be above 0, got 0"),
        ({"sparsity": 1}, r"method\.sparsity must lie in \[0, 1\), got 1"),
    ],
)
def test_a_wrong_setting_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Reshaping(snell(**changes), tiny_model("llama"), seed=1)
