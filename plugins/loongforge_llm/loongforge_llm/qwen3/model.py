"""Qwen3: the shared decoder as it is. Reference: `transformers.Qwen3ForCausalLM`."""

from __future__ import annotations

from loongforge_core.layers.decoder import Decoder

__all__ = ["Qwen3Model"]


class Qwen3Model(Decoder):
    """Nothing differs but the config."""
