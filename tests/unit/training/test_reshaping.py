"""A reshaped model: the base's own parameters in it, and the biases that BitFit trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gmt.errors import UserError
from gmt.methods.bitfit import BitFit
from gmt.methods.sft import Sft
from gmt.training.reshaping import Reshaping, check_reshaping
from gmt.training.train import moved_fraction
from gmt.training.weights import weights_sha256
from tests.architectures import tiny_model


class Wrapped(nn.Module):
    """A layer behind a trained scale."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.inner = layer
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.inner(hidden) * self.scale
        return scaled


class Wrapping(Sft):
    """Trains a scale of the output's layer, which then has another name, and drops the last norm; merges nothing."""

    def reshape(self, model: Any, *, seed: int) -> "Wrapping":
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.lm_head = Wrapped(model.lm_head)
        model.model.norm = nn.Identity()
        return self

    def save(self, folder: Path) -> None:
        """Keeps nothing."""


def test_moved_entries_are_counted_by_the_bases_own_parameters_whatever_their_names() -> None:
    model: Any = tiny_model("llama", tie_word_embeddings=False)
    total = model.num_parameters()
    reshaping = Reshaping(Wrapping(name="w"), model, seed=1)
    assert (reshaping.sizes.num_trainable, reshaping.sizes.num_added) == (1, 1 - 32)
    base = tiny_model("llama", tie_word_embeddings=False)

    def moved() -> float:
        return moved_fraction(reshaping.base_parameters(model), base)

    assert moved() * total == pytest.approx(32)  # the norm that is gone
    with torch.no_grad():
        model.lm_head.inner.weight[0, :3] += 1
    assert moved() * total == pytest.approx(35)
    reshaping.finish()
    assert moved() * total == pytest.approx(35)
    assert isinstance(model.lm_head, Wrapped)
    with pytest.raises(UserError, match=r"record\.keep_weights must be true or false for method w, .* got merged"):
        check_reshaping(Wrapping(name="w"), lambda: base, seed=1, num_rows=1, must_merge=True)


def test_bitfit_trains_the_biases_and_keeps_them(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = tiny_model("qwen2")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    reshaping = Reshaping(BitFit(name="bitfit"), model, seed=1)
    biases = {name for name in before if name.endswith("bias")}
    assert reshaping.sizes.num_trainable == sum(before[name].numel() for name in biases) > 0
    assert reshaping.sizes.num_added == 0
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.arange(12)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    reshaping.save(tmp_path)
    reshaping.finish()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in biases), name
        assert parameter.requires_grad
    again = tiny_model("qwen2")
    again.load_state_dict(load_file(tmp_path / "biases.safetensors"), strict=False)
    assert weights_sha256(again.named_parameters()) == weights_sha256(model.named_parameters())
