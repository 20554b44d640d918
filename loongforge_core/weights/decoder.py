"""The tables of the shared dense decoder's families: tensors and config.json keys that Qwen2, Llama and their like have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Constant, Key
from loongforge_core.weights.rules import WEIGHT, WEIGHT_AND_BIAS, Copy, FusedGateUp, FusedQkv, Rule, per_layer

__all__ = ["ROTARY_BUFFERS", "decoder_keys", "decoder_rules", "tied_head"]

ROTARY_BUFFERS: Mapping[str, str] = {"*.rotary_emb.inv_freq": "rotary angles, which follow from config.json"}


def decoder_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Names as `Qwen2ForCausalLM` and `LlamaForCausalLM` have them on disk."""
    layer = (
        Copy("input_layernorm", "input_layernorm"),
        FusedQkv(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "self_attention.linear_qkv",
            parts=WEIGHT_AND_BIAS if config.add_qkv_bias else WEIGHT,
            num_heads=config.num_attention_heads,
            num_groups=config.groups,
            head_size=config.head_size,
        ),
        Copy("self_attn.o_proj", "self_attention.linear_proj"),
        Copy("post_attention_layernorm", "pre_mlp_layernorm"),
        FusedGateUp(("mlp.gate_proj", "mlp.up_proj"), "mlp.linear_fc1"),
        Copy("mlp.down_proj", "mlp.linear_fc2"),
    )
    head = (Copy("lm_head", "output_layer"),) if config.untie_embeddings_and_output_weights else ()
    return (
        Copy("model.embed_tokens", "embedding.word_embeddings"),
        *per_layer(layer, "model.layers.{i}.", "decoder.layers.{i}.", range(config.num_layers)),
        Copy("model.norm", "decoder.final_layernorm"),
        *head,
    )


def tied_head(config: DecoderConfig) -> Mapping[str, str]:
    return {} if config.untie_embeddings_and_output_weights else {"lm_head.weight": "model.embed_tokens.weight"}


def decoder_keys(defaults: Mapping[str, Any]) -> tuple[ConfigKey, ...]:
    """Keys of the family; `defaults` is what its class in transformers assumes where a key is absent."""

    def rotary(name: str, ours: str, default: Any = None, **more: Any) -> Key:
        return Key(f"rope_parameters.{name}", ours, default, also=(f"rope_scaling.{name}",), **more)

    return (
        Key("num_hidden_layers", "num_layers", defaults["num_hidden_layers"]),
        Key("hidden_size", "hidden_size", defaults["hidden_size"]),
        Key("intermediate_size", "ffn_hidden_size", defaults["intermediate_size"]),
        Key("num_attention_heads", "num_attention_heads", defaults["num_attention_heads"]),
        Key("num_key_value_heads", "num_query_groups", lambda config: config.num_attention_heads, effective="groups"),
        Key(
            "head_dim", "kv_channels", lambda config: config.hidden_size // config.num_attention_heads, effective="head_size", optional=True
        ),
        Key("vocab_size", "vocab_size", defaults["vocab_size"]),
        Key("max_position_embeddings", "max_position_embeddings", defaults["max_position_embeddings"]),
        Key("rms_norm_eps", "layernorm_epsilon", 1e-6),
        Key("tie_word_embeddings", "untie_embeddings_and_output_weights", False, values={True: False, False: True}),
        Key("rope_parameters.rope_theta", "rotary_base", 10000.0, also=("rope_theta",)),
        Key(
            "rope_parameters.rope_type",
            "rotary_scaling.type",
            "default",
            also=("rope_parameters.type", "rope_scaling.rope_type", "rope_scaling.type"),
            values={"default": None, "llama3": "llama3"},
        ),
        rotary("factor", "rotary_scaling.factor"),
        rotary("low_freq_factor", "rotary_scaling.low_freq_factor"),
        rotary("high_freq_factor", "rotary_scaling.high_freq_factor"),
        rotary("original_max_position_embeddings", "rotary_scaling.original_max_position_embeddings"),
        Constant("hidden_act", "silu", "silu"),
        Constant("attention_dropout", 0.0, 0.0),
        GENERIC_KEYS,
    )
