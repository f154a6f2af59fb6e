"""Tiny random models of whatever architecture transformers has, with the shipped nano's tokenizer."""

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tests.models import pretrained

ALL = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(MODEL_FOR_MASKED_LM_MAPPING_NAMES))
_MOST_PARAMETERS = 3_000_000
_DIMENSIONS = {
    32: "hidden_size n_embd d_model dim word_embed_proj_dim embedding_size dim_model emb_dim embed_dim lru_width "
    "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size attention_hidden_size",
    64: "intermediate_size ffn_dim n_inner d_inner dff decoder_ffn_dim encoder_ffn_dim dim_ff ffn_hidden_size "
    "intermediate_size_mlp mamba_intermediate_size mamba_d_ssm",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers num_blocks num_key_value_heads "
    "num_experts_per_tok moe_topk moe_k linear_num_key_heads altup_num_inputs mamba_expand expand",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads num_local_experts num_experts "
    "n_routed_experts moe_num_experts mamba_n_heads mamba_num_heads linear_num_value_heads conv_kernel time_step_rank",
    8: "head_dim attention_head_dim rotary_dim qk_nope_head_dim qk_rope_head_dim v_head_dim ssm_state_size state_size "
    "mamba_d_state linear_key_head_dim linear_value_head_dim hidden_size_per_layer_input laurel_rank",
    16: "q_lora_rank kv_lora_rank mamba_d_head mamba_head_dim mamba_chunk_size chunk_size",
    128: "max_position_embeddings n_positions n_ctx max_seq_len attention_window_size",
    1: "n_shared_experts num_shared_experts n_group topk_group first_k_dense_replace moe_layer_start_index "
    "mamba_n_groups n_groups bos_token_id",
    256: "vocab_size vocab_size_per_layer_input",
    0: "num_kv_shared_layers pad_token_id dropout attention_dropout activation_dropout hidden_dropout resid_pdrop "
    "embd_pdrop attn_pdrop hidden_dropout_prob attention_probs_dropout_prob embedding_dropout attn_dropout "
    "resid_dropout residual_dropout emb_pdrop layerdrop router_jitter_noise input_jitter_noise",
}
_SIZES: dict[str, Any] = {name: size for size, names in _DIMENSIONS.items() for name in names.split()}
_EVEN_WHERE_UNSET = ("head_dim", "num_key_value_heads")
_OF_KIND: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"head_dim": 16, "n_groups": 1},
    "nemotron_h": {"layers_block_type": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
}
_LAYERS = ["layer_types", "mlp_layer_types", "layers_block_type", "mlp_only_layers", "hybrid_layer_pattern"]


def tiny_config(kind: str, **changes: Any) -> PreTrainedConfig:
    """The config of an architecture with every size cut down, where it goes by one of the usual names."""
    config = CONFIG_MAPPING[kind]()
    _shrink(config)
    text = config.get_text_config()
    if getattr(text, "kv_lora_rank", None):  # its heads share one latent vector, so that there are no fewer for it
        changes = {"num_key_value_heads": 4, **changes}
    for name, value in {**_OF_KIND.get(kind, {}), **changes}.items():
        setattr(text, name, value)
    return config


def _shrink(config: PreTrainedConfig) -> None:
    for name, size in {**_SIZES, "eos_token_id": 2, "sliding_window": 4}.items():
        known = name in config.to_dict() or name in config.attribute_map
        default = getattr(config, name, None) if known else None
        if default is not None or (known and name in _EVEN_WHERE_UNSET):
            value = float(size) if isinstance(default, float) else size
            setattr(config, name, [value] * 2 if isinstance(default, list) and name != "eos_token_id" else value)
    for name in _LAYERS:
        layers = getattr(config, name, None)
        if isinstance(layers, list) and len(layers) > 2:
            kinds = list(dict.fromkeys(layers))
            setattr(config, name, (kinds * 2)[:2])
    for value in list(vars(config).values()):
        if isinstance(value, PreTrainedConfig):
            _shrink(value)


def tiny_model(kind: str, attention: str = "sdpa", **changes: Any) -> PreTrainedModel:
    """A model of an architecture, its weights large enough for a leak to show.

    Raises:
        Exception: whatever its code says to a config made in this way.
    """
    config = tiny_config(kind, **changes)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config, attn_implementation="eager").num_parameters()
    if size > _MOST_PARAMETERS:
        raise RuntimeError(f"{kind} has {size:,} parameters in its smallest form here")
    torch.manual_seed(0)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except ValueError:  # not every one has fused attention
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model.float().eval()


def tiny_folder(folder: Path, kind: str, **changes: Any) -> str:
    """Saves such a model with the shipped nano's tokenizer; returns the path."""
    tiny_model(kind, **changes).save_pretrained(folder)
    pretrained().load_tokenizer().save_pretrained(folder)
    return str(folder)
