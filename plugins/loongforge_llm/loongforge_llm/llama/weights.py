"""Llama 2, 3 and 3.1 on disk: `LlamaForCausalLM`."""

from __future__ import annotations

from loongforge_core.weights.config_keys import Constant, Ignored
from loongforge_core.weights.decoder import ROTARY_BUFFERS, decoder_keys, decoder_rules, tied_head
from loongforge_core.weights.table import Table
from loongforge_llm.llama.config import LlamaConfig

__all__ = ["table"]

DEFAULTS = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}


def table(config: LlamaConfig) -> Table:
    return Table(
        rules=decoder_rules(config),
        keys=(
            *decoder_keys(DEFAULTS),
            Constant("attention_bias", False, False),
            Constant("mlp_bias", False, False),
            Ignored(("pretraining_tp",), "tensor parallelism of the original training; the numbers are the same"),
        ),
        model_type="llama",
        architectures=("LlamaForCausalLM",),
        ignored=ROTARY_BUFFERS,
        tied=tied_head(config),
        generates=True,
    )
