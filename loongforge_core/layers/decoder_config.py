"""What a dense decoder is: the config that families such as Qwen2 and Llama specialise. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import BackboneConfig, indivisible

__all__ = ["DecoderConfig", "Llama3RotaryScaling"]


class Llama3RotaryScaling(BaseModel):
    """Llama 3.1's rotary scaling: low frequencies are divided by `factor`, high ones kept, those between are blended."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    type: Literal["llama3"] = "llama3"
    factor: PositiveFloat = 8.0
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    original_max_position_embeddings: PositiveInt = 8192
    """Positions that the model saw before its context was lengthened."""


class DecoderConfig(BackboneConfig):
    """Pre-norm decoder with RMS norms, rotary positions, grouped queries and a gated MLP (SiLU)."""

    num_layers: PositiveInt
    hidden_size: PositiveInt
    ffn_hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    num_query_groups: PositiveInt | None = None
    """Key and value heads; default one for every query head."""
    kv_channels: PositiveInt | None = None
    """Width of a head; default `hidden_size / num_attention_heads`."""
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt = 32768
    """Longest sequence the model was made for, in tokens."""
    layernorm_epsilon: PositiveFloat = 1e-6
    rotary_base: PositiveFloat = 10000.0
    rotary_scaling: Llama3RotaryScaling | None = None
    add_qkv_bias: bool = False
    untie_embeddings_and_output_weights: bool = True
    """`false`: the output layer is the embedding table."""
    init_method_std: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _check_heads(self) -> DecoderConfig:
        if self.kv_channels is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}")
        if self.num_attention_heads % self.groups:
            raise ValueError(f"num_attention_heads {self.num_attention_heads} is not a multiple of num_query_groups {self.groups}")
        if self.head_size % 2:
            raise ValueError(f"rotary positions need heads of even width, this one has {self.head_size}")
        return self

    @property
    def groups(self) -> int:
        return self.num_query_groups or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def takes_levels(self) -> bool:
        return True

    @property
    def max_sequence_length(self) -> int:
        return self.max_position_embeddings

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        """Heads and MLP are cut. Ranks share key and value heads where these are fewer, so that their number divides the other way too."""
        conflicts = indivisible(size, num_attention_heads=self.num_attention_heads, ffn_hidden_size=self.ffn_hidden_size)
        if not conflicts and size % self.groups:
            conflicts = [f"{reason}, nor {size} by {self.groups}" for reason in indivisible(size, num_query_groups=self.groups)]
        rows = (self.num_attention_heads + 2 * self.groups) * self.head_size
        return conflicts or [f"queries, keys and values of all heads: {reason}" for reason in indivisible(size, rows=rows)]

    def transformer_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "num_query_groups": self.groups,
            "kv_channels": self.head_size,
            "normalization": "RMSNorm",
            "layernorm_epsilon": self.layernorm_epsilon,
            "activation": "silu",
            "gated_linear_unit": True,
            "add_bias_linear": False,
            "add_qkv_bias": self.add_qkv_bias,
        }
