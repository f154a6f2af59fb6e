"""Learnt masks over frozen weights: mft and r_amt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gmt.errors import UserError
from gmt.masking.packing import unpack
from gmt.methods.computed_weights import chosen_layers, computed_weights
from gmt.methods.mft import MaskFineTuning
from gmt.methods.weight_masks import WeightMask
from gmt.training.reshaping import Reshaping
from tests.architectures import tiny_model
from tests.unit.methods.few_steps import IDS, train_few_steps


def mft(**changes: Any) -> MaskFineTuning:
    settings = {"name": "mft", "sparsity": 0.1, "spread": 0.02, "targets": "all-linear", "layers": None}
    return MaskFineTuning(**{**settings, **changes})


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_exactly_a_share_of_each_weight_is_zero_and_what_is_saved_says_which(tmp_path: Path) -> None:
    model: Any = tiny_model("llama")
    before, layers = weights(model), chosen_layers(model, "all-linear")
    reshaping = Reshaping(mft(sparsity=0.3), model, seed=1)
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    assert reshaping.sizes.num_trainable == reshaping.sizes.num_added == sum(sizes.values())
    train_few_steps(model, steps=1, lr=0.05)
    logits = model(input_ids=IDS).logits
    reshaping.save(tmp_path)
    reshaping.finish()
    assert torch.equal(model(input_ids=IDS).logits, logits)
    saved = load_file(tmp_path / "masks.safetensors")
    for name, now in weights(model).items():
        layer = name.removesuffix(".weight")
        if layer not in sizes:
            assert torch.equal(now, before[name])
            continue
        keep = unpack(saved[f"{layer}.keep"], sizes[layer]).view(now.shape)
        assert torch.equal(now, before[name] * keep)
        assert int(keep.sum()) == sizes[layer] - int(0.3 * sizes[layer])


def test_without_zeros_the_model_is_the_base_bit_for_bit_and_can_be_switched_off() -> None:
    model: Any = tiny_model("llama")
    before = model(input_ids=IDS).logits
    Reshaping(mft(sparsity=0), model, seed=1)
    assert torch.equal(model(input_ids=IDS).logits, before)
    model = tiny_model("llama")
    reshaping = Reshaping(mft(sparsity=0.5), model, seed=1)
    assert not torch.equal(model(input_ids=IDS).logits, before)
    reference: Any = reshaping.reference()
    assert torch.equal(model.lm_head(reference.base_model(input_ids=IDS).last_hidden_state), before)


def test_the_gradient_of_a_score_is_g_times_w_times_its_sign() -> None:
    model: Any = tiny_model("llama")
    Reshaping(mft(sparsity=0.3, layers=[-1], targets=["q_proj"]), model, seed=1)
    ((name, part),) = computed_weights(model, WeightMask).items()
    assert name == "model.layers.1.self_attn.q_proj"
    layer = model.get_submodule(name)
    weight = layer.parametrizations.weight.original
    computed: list[torch.Tensor] = []
    part.register_forward_hook(lambda module, args, output: (output.retain_grad(), computed.append(output))[0])
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert weight.grad is None
    (output,) = computed
    assert torch.equal(part.scores.grad, output.grad * weight * part.scores.sign())
    assert torch.equal(output == 0, ~part.keep())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sparsity": 1.0}, r"method\.sparsity must lie in \[0, 1\), got 1\.0"),
        ({"spread": 0}, r"method\.spread must be above 0, got 0"),
        ({"targets": "q_proj"}, r"method\.targets must be all-linear or a list of texts, got 'q_proj'"),
        ({"targets": ["none"]}, r"method\.targets must name linear layers of the model, down_proj, .* got 'none'"),
        ({"targets": ["lm_head"]}, r"method\.targets must name linear layers of the model, .* got 'lm_head'"),
        ({"layers": 3}, r"method\.layers must be null or a list of at least one layer's number, got 3"),
        ({"layers": [9]}, r"method\.layers must be numbers from -2 to 1, the layers of this model, got 9"),
    ],
)
def test_a_wrong_setting_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Reshaping(mft(**changes), tiny_model("llama"), seed=1)
