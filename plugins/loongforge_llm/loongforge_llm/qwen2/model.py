"""Qwen2: the shared decoder as it is. Reference: `transformers.Qwen2ForCausalLM`."""

from __future__ import annotations

from loongforge_core.layers.decoder import Decoder

__all__ = ["Qwen2Model"]


class Qwen2Model(Decoder):
    """Nothing differs but the config."""
