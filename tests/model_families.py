"""Tiny models of the families that transformers can build, and the matrices of their blocks."""

import re
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

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


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of the blocks, routers left out: everything that has a number and more than one dimension."""
    return {
        name: p
        for name, p in model.named_parameters()
        if re.search(r"\.\d+\.", name) and p.ndim > 1 and not name.endswith("bias") and not ROUTERS.search(name)
    }
