"""What works by the names of parameters finds what it should in each family of models that transformers can build."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from gmt.errors import UserError
from gmt.masking.parameters import layer_of
from gmt.methods.hft import HalfFineTuning, Halves

SMALL = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LIKE_LLAMA = SMALL | SIZES | {"num_key_value_heads": 1}
EXPERTS = LIKE_LLAMA | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
SHARED = EXPERTS | {"shared_expert_intermediate_size": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
LIKE_GPT2 = SMALL | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24}
LIKE_OPT = SMALL | SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 32}
OF_XGLM = SMALL | {"d_model": 16, "num_layers": 2, "attention_heads": 2, "ffn_dim": 24, "max_position_embeddings": 32}

# Family -> config; how many attention and feed-forward matrices a block holds, routers left out.
FAMILIES: dict[str, tuple[dict[str, Any], int, int]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "olmo2", "granite", "smollm3"), (LIKE_LLAMA, 4, 3)),
    **{name: (LIKE_LLAMA | {"head_dim": 8}, 4, 3) for name in ("gemma", "gemma2", "gemma3_text")},
    **dict.fromkeys(("cohere", "stablelm"), (LIKE_LLAMA, 4, 3)),
    **dict.fromkeys(("phi", "starcoder2", "nemotron"), (LIKE_LLAMA, 4, 2)),
    "phi3": (LIKE_LLAMA, 2, 2),
    "gpt_neox": (SMALL | SIZES, 2, 2),
    "falcon": (SMALL | SIZES | {"multi_query": True}, 2, 2),
    "bloom": (SMALL | {"hidden_size": 16, "n_layer": 2, "n_head": 2}, 2, 2),
    "gpt2": (LIKE_GPT2, 2, 2),
    "gpt_bigcode": (LIKE_GPT2, 2, 2),
    "gptj": (LIKE_GPT2 | {"rotary_dim": 4}, 4, 2),
    "gpt_neo": (
        SMALL | {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global"], 2]]},
        4,
        2,
    ),
    "mpt": (SMALL | {"d_model": 16, "n_layers": 2, "n_heads": 2, "expansion_ratio": 2}, 2, 2),
    "opt": (LIKE_OPT, 4, 2),
    "xglm": (OF_XGLM, 4, 2),
    **dict.fromkeys(("mixtral", "qwen3_moe", "olmoe", "gpt_oss", "granitemoe", "phimoe"), (EXPERTS, 4, 2)),
    "qwen2_moe": (SHARED, 4, 5),
    "deepseek_v3": (SHARED | LATENT | {"first_k_dense_replace": 0, "n_shared_experts": 1}, 5, 5),
}
UNKNOWN = {
    "mamba": (LIKE_LLAMA, "backbone.layers.0.mixer"),
    "qwen3_next": (
        SHARED | {"linear_num_value_heads": 2, "linear_num_key_heads": 2},
        "model.layers.0.linear_attn.conv1d.weight",
    ),
}
ROUTERS = re.compile(r"(gate|router|shared_expert_gate)\.weight$")


@lru_cache(maxsize=4)
def model_of(family: str) -> nn.Module:
    torch.manual_seed(0)
    config = FAMILIES[family][0] if family in FAMILIES else UNKNOWN[family][0]
    model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config))
    return model


def hft(model: nn.Module, seed: int = 1) -> Halves:
    return HalfFineTuning(name="hft").attach(model, torch.optim.SGD(model.parameters()), seed=seed, facts_every=1)


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of the blocks, routers left out: everything that has a number and more than one dimension."""
    return {
        name: p
        for name, p in model.named_parameters()
        if re.search(r"\.\d+\.", name) and p.ndim > 1 and not name.endswith("bias") and not ROUTERS.search(name)
    }


def frozen(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_hft_freezes_half_of_every_part_of_a_block(family: str) -> None:
    _, num_attention, num_feed_forward = FAMILIES[family]
    model = model_of(family)
    every = matrices(model)
    in_blocks = Counter(re.search(r"\.(\d+)\.", name)[1] for name in every)  # type: ignore[index]
    assert in_blocks == {"0": num_attention + num_feed_forward, "1": num_attention + num_feed_forward}
    halves = hft(model)
    share, ever = 0.0, set()
    epochs = 30
    for epoch in range(epochs):
        halves.begin_epoch(epoch)
        chosen = frozen(model)
        assert chosen <= set(every)
        of_part: dict[str, list[bool]] = defaultdict(list)
        for name in every:
            of_part[name.removesuffix(".weight").rpartition(".")[0]].append(name in chosen)
        for part, is_frozen in of_part.items():
            assert abs(sum(is_frozen) - len(is_frozen) / 2) <= 0.5, part
        ever |= chosen
        share += sum(every[name].numel() for name in chosen) / sum(p.numel() for p in every.values()) / epochs
    assert ever == set(every)
    assert share == pytest.approx(0.5, abs=0.1)
    halves.detach()
    assert not frozen(model)


@pytest.mark.parametrize("family", UNKNOWN)
def test_hft_names_the_matrices_that_it_does_not_know(family: str) -> None:
    with pytest.raises(UserError, match=f"does not of {re.escape(UNKNOWN[family][1])}"):
        hft(model_of(family))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: m.model.layers[1].add_module("extra", nn.Linear(4, 4)),
            r"does not of model\.layers\.1\.extra\.weight$",
        ),
        (lambda m: [setattr(layer, "mlp", nn.Identity()) for layer in m.model.layers], "has no feed-forward matrices"),
        (lambda m: setattr(m.model, "layers", nn.ModuleList()), "has no attention and no feed-forward matrices"),
    ],
)
def test_hft_refuses_blocks_that_are_not_what_it_halves(change: Callable[[Any], object], said: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LIKE_LLAMA))
    change(model)
    with pytest.raises(UserError, match=said):
        hft(model)


def test_what_hft_draws_for_llama_has_not_changed() -> None:
    model = model_of("llama")
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, _ in model.named_parameters():
        if match := re.search(r"\.(\d+)\.(self_attn|mlp)\.\w+\.weight$", name):
            groups[match[2], int(match[1])].append(name)
    halves = hft(model, seed=7)
    for epoch in range(5):
        halves.begin_epoch(epoch)
        expected = {
            name
            for (kind, block), names in groups.items()
            for name in random.Random(f"7/{epoch}/{kind}/{block}").sample(names, (len(names) + block % 2) // 2)
        }
        assert frozen(model) == expected
    halves.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_a_mask_is_a_block(family: str) -> None:
    """scope=layer, and the facts by layer."""
    layers = {layer_of(name) for name in matrices(model_of(family))}
    assert len(layers) == 2
    assert all(re.search(r"^[a-z_.]+\.[01]$", layer) for layer in layers)
    outside = {name for name, _ in model_of(family).named_parameters() if not re.search(r"\.\d+\.", name)}
    assert {layer_of(name) for name in outside} == outside
