"""A reshaped model: the base's own parameters in it, and the parts of it that BitFit and localized train."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gmt.errors import UserError
from gmt.masking.bits import weights_sha256
from gmt.methods.bitfit import BitFit
from gmt.methods.localized import LocalizedTuning
from gmt.methods.sft import Sft
from gmt.training.delta import delta_of
from gmt.training.method_trial import try_method
from gmt.training.reshaping import Reshaping
from tests.architectures import tiny_model
from tests.models import train_settings


def localized(patterns: Any, layers: Any) -> LocalizedTuning:
    return LocalizedTuning(name="localized", patterns=patterns, layers=layers)


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
        return delta_of(reshaping.base_parameters(model), base).moved_fraction

    assert moved() * total == pytest.approx(32)  # the norm that is gone
    with torch.no_grad():
        model.lm_head.inner.weight[0, :3] += 1
    assert moved() * total == pytest.approx(35)
    reshaping.finish()
    assert moved() * total == pytest.approx(35)
    assert isinstance(model.lm_head, Wrapped)
    with pytest.raises(UserError, match=r"record\.keep_weights must be true or false for method w, .* got merged"):
        try_method(
            Wrapping(name="w"), base, train_settings(), seed=1, num_rows=1, examples=lambda: None, must_merge=True
        )


@pytest.mark.parametrize(
    ("method", "pattern", "file"),
    [
        (BitFit(name="bitfit"), r"bias$", "biases"),
        (localized(["*.down_proj.weight"], [-1]), r"layers\.1\.mlp\.down_proj\.weight$", "trained"),
        (localized(["*.down_proj.weight"], [0, -1]), r"mlp\.down_proj\.weight$", "trained"),
        (localized(["*_proj.*", "*norm*"], [0]), r"layers\.0\.", "trained"),
        (localized(["*norm*", "*embed*"], None), r"norm|embed", "trained"),
    ],
)
def test_the_chosen_parameters_train_and_are_saved_and_no_others(
    method: BitFit | LocalizedTuning, pattern: str, file: str, tmp_path: Path
) -> None:
    model = tiny_model("qwen2")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    reshaping = Reshaping(method, model, seed=1)
    trained = {name for name in before if re.search(pattern, name)}
    assert reshaping.sizes.num_trainable == sum(before[name].numel() for name in trained) > 0
    assert reshaping.sizes.num_added == 0
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    ids = torch.arange(12)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    reshaping.save(tmp_path)
    reshaping.finish()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in trained), name
        assert parameter.requires_grad
    again = tiny_model("qwen2")
    again.load_state_dict(load_file(tmp_path / f"{file}.safetensors"), strict=False)
    assert weights_sha256(dict(again.named_parameters())) == weights_sha256(dict(model.named_parameters()))


@pytest.mark.parametrize(
    ("patterns", "layers", "sentence"),
    [
        ([], None, r"method\.patterns must be a list of at least one name pattern, got \[\]"),
        ("*norm*", None, r"method\.patterns must be a list of at least one name pattern, got '\*norm\*'"),
        (["*"], [], r"method\.layers must be null or a list of at least one layer's number, got \[\]"),
        (["*"], [True], r"method\.layers must be null or a list .*, got \[True\]"),
        (["*"], [2], r"method\.layers must be numbers from -2 to 1, the layers of this model, got 2"),
        (["*"], [-3], r"method\.layers must be numbers from -2 to 1, .* got -3"),
        (
            ["*.wi"],
            [0],
            r"method\.patterns must fit names of parameters of layers 0, .*gate_proj\.weight.*, got '\*\.wi'",
        ),
        (["*.wi"], None, r"method\.patterns must fit names of parameters of the model, .*, got '\*\.wi'"),
    ],
)
def test_what_a_model_does_not_have_is_refused(patterns: Any, layers: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Reshaping(localized(patterns, layers), tiny_model("qwen2"), seed=1)
