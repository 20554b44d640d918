"""Qwen3 (dense) on disk: `Qwen3ForCausalLM`."""

from __future__ import annotations

from loongforge_core.weights.config_keys import Constant, Derived, Ignored
from loongforge_core.weights.decoder import ROTARY_BUFFERS, decoder_keys, decoder_rules, tied_head
from loongforge_core.weights.table import Table
from loongforge_llm.qwen3.config import Qwen3Config

__all__ = ["table"]

DEFAULTS = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}


def table(config: Qwen3Config) -> Table:
    return Table(
        rules=decoder_rules(config),
        keys=(
            *decoder_keys(DEFAULTS),
            Constant("attention_bias", False, False),
            Constant("use_sliding_window", False, False),
            Derived("layer_types", lambda config: ["full_attention"] * config.num_layers),
            Ignored(("sliding_window", "max_window_layers"), "no effect without use_sliding_window"),
        ),
        model_type="qwen3",
        architectures=("Qwen3ForCausalLM",),
        ignored=ROTARY_BUFFERS,
        tied=tied_head(config),
        generates=True,
    )
