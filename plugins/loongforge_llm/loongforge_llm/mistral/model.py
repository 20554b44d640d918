"""Mistral: the shared decoder as it is. Reference: `transformers.MistralForCausalLM`."""

from __future__ import annotations

from loongforge_core.layers.decoder import Decoder

__all__ = ["MistralModel"]


class MistralModel(Decoder):
    """Nothing differs but the config."""
