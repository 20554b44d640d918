"""Mistral 7B, Nemo and Small on disk: `MistralForCausalLM`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_core.weights.config_keys import Key
from loongforge_core.weights.decoder import ROTARY_BUFFERS, decoder_keys, decoder_rules, tied_head
from loongforge_core.weights.table import Table
from loongforge_llm.mistral.config import MistralConfig

__all__ = ["table"]

DEFAULTS = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 131072,
}


class SlidingWindow(Key):
    """Written in any case, null where there is none: where the key is absent, transformers assumes a window of 4096.

    In a file that is read, null and absent are the same to us; all that are published state it.
    """

    def write(self, config: Any) -> Mapping[str, Any]:
        return {self.theirs: self.expected(config)}


def table(config: MistralConfig) -> Table:
    return Table(
        rules=decoder_rules(config),
        keys=(*decoder_keys(DEFAULTS), SlidingWindow("sliding_window", "sliding_window", None)),
        model_type="mistral",
        architectures=("MistralForCausalLM",),
        ignored=ROTARY_BUFFERS,
        tied=tied_head(config),
        generates=True,
    )
