"""InternLM2 and 2.5: what differs from the shared decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.rotary_config import DynamicRotaryScaling, LinearRotaryScaling

__all__ = ["InternLM2Config"]


class InternLM2Config(DecoderConfig):
    """No biases. The vocabulary has 92544 rows stand-alone, and 92553 in InternVL."""

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {
        "rotary_emb_func": {"DynamicRotaryEmbedding": {"rotary_scaling": {"type": "dynamic"}}},
        "model_spec": {
            ("loongforge.models.foundation.internlm.internlm_layer_spec", "get_internlm_layer_with_te_spec"): {
                "backend": "transformer_engine"
            }
        },
    }

    kv_channels: None = None
    add_qkv_bias: Literal[False] = False
    qk_layernorm: Literal[False] = False
    sliding_window: None = None
    layernorm_epsilon: PositiveFloat = 1e-5
    rotary_base: PositiveFloat = 1e6
    rotary_scaling: Annotated[LinearRotaryScaling | DynamicRotaryScaling, Field(discriminator="type")] | None = None
    """The types that the published definition has."""
