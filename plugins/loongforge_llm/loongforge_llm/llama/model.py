"""Llama: the shared decoder as it is. Reference: `transformers.LlamaForCausalLM`."""

from __future__ import annotations

from loongforge_core.layers.decoder import Decoder

__all__ = ["LlamaModel"]


class LlamaModel(Decoder):
    """Nothing differs but the config."""
