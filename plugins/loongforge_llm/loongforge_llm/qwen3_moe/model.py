"""Qwen3 with experts: the shared decoder as it is. Reference: `transformers.Qwen3MoeForCausalLM`."""

from __future__ import annotations

from loongforge_core.layers.decoder import Decoder

__all__ = ["Qwen3MoeModel"]


class Qwen3MoeModel(Decoder):
    """Nothing differs but the config."""
