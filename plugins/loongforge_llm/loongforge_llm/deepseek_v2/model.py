"""DeepSeek-V2 and V2-Lite: the shared decoder as it is. Reference: `transformers.DeepseekV2ForCausalLM`."""

from __future__ import annotations

from loongforge_core.layers.decoder import Decoder

__all__ = ["DeepseekV2Model"]


class DeepseekV2Model(Decoder):
    """Nothing differs but the config."""
