"""Multi-head latent attention on disk, under DeepSeek's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_core.layers.latent_config import LatentDecoderConfig
from loongforge_core.weights.config_keys import ConfigKey, Constant, Derived, Ignored, Key
from loongforge_core.weights.rules import Copy, Rule

__all__ = ["latent_attention_rules", "latent_keys"]


def latent_attention_rules(config: LatentDecoderConfig) -> tuple[Rule, ...]:
    """Of one layer: both norms, and the attention between them."""
    names = {
        "kv_a_proj_with_mqa": "linear_kv_down_proj",
        "kv_a_layernorm": "kv_layernorm",
        "kv_b_proj": "linear_kv_up_proj",
        "o_proj": "linear_proj",
    }
    if config.q_lora_rank is None:
        names["q_proj"] = "linear_q_proj"
    else:
        names |= {"q_a_proj": "linear_q_down_proj", "q_a_layernorm": "q_layernorm", "q_b_proj": "linear_q_up_proj"}
    return (
        Copy("input_layernorm", "input_layernorm"),
        *(Copy(f"self_attn.{theirs}", f"self_attention.{ours}") for theirs, ours in names.items()),
        Copy("post_attention_layernorm", "pre_mlp_layernorm"),
    )


class Null(Key):
    """A key that is written as null where we have nothing; transformers would assume a number where it is absent."""

    def write(self, config: Any) -> Mapping[str, Any]:
        return {self.theirs: self.expected(config)}


def latent_keys() -> tuple[ConfigKey, ...]:
    return (
        Null("q_lora_rank", "q_lora_rank", None),
        Key("kv_lora_rank", "kv_lora_rank", 512),
        Key("qk_nope_head_dim", "qk_head_dim", 128),
        Key("qk_rope_head_dim", "qk_pos_emb_head_dim", 64),
        Key("v_head_dim", "v_head_dim", 128),
        Derived("num_key_value_heads", lambda config: config.num_attention_heads),
        Derived("head_dim", lambda config: config.head_size),
        Derived("qk_head_dim", lambda config: config.qk_head_dim + config.head_size),
        Constant("attention_bias", False, False),
        Ignored(("pretraining_tp", "ep_size"), "layouts of the original training; the numbers are the same"),
    )
