"""Qwen1.5, Qwen2 and Qwen2.5 on disk: `Qwen2ForCausalLM`."""

from __future__ import annotations

from loongforge_core.weights.config_keys import Constant, Derived, Ignored, Unwritten
from loongforge_core.weights.decoder import ROTARY_BUFFERS, decoder_keys, decoder_rules, tied_head
from loongforge_core.weights.table import Table
from loongforge_llm.qwen2.config import Qwen2Config

__all__ = ["table"]

DEFAULTS = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}


def table(config: Qwen2Config) -> Table:
    return Table(
        rules=decoder_rules(config),
        keys=(
            *decoder_keys(DEFAULTS),
            Constant("use_sliding_window", False, False),
            Unwritten("use_mrope", False, False),
            Derived("layer_types", lambda config: ["full_attention"] * config.num_layers),
            Ignored(("sliding_window", "max_window_layers"), "no effect without use_sliding_window"),
        ),
        model_type="qwen2",
        architectures=("Qwen2ForCausalLM",),
        ignored=ROTARY_BUFFERS,
        tied=tied_head(config),
        generates=True,
    )
