"""What a dense decoder is: the config that families such as Qwen2 and Llama specialise. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import BackboneConfig, indivisible
from loongforge_core.layers.rotary_config import DynamicRotaryScaling, RotaryScaling

__all__ = ["DecoderConfig"]


class DecoderConfig(BackboneConfig):
    """Pre-norm decoder with RMS norms, rotary positions, grouped queries and a gated MLP (SiLU)."""

    tiny = {
        "num_layers": 3,
        "hidden_size": 16,
        "ffn_hidden_size": 24,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "vocab_size": 265,
        "init_method_std": 0.1,
    }
    backends = ("torch", "transformer_engine")

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
    rotary_scaling: RotaryScaling | None = None
    """How rotary positions reach beyond the length of the first training."""
    mrope_section: list[PositiveInt] | None = None
    """Positions of three axes (M-RoPE): how many of a head's frequencies turn by time, height and width; half a head's width in all."""
    mrope_interleaved: bool = False
    """`true`: the axes take turns from the first frequency on, as in Qwen3-VL; `false`: they come one after another, as in Qwen2.5-VL."""
    sliding_window: PositiveInt | None = None
    """Tokens that a token sees, itself and those before it; default all."""
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    """Queries and keys are normalised, head by head, before they are turned."""
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

    @model_validator(mode="after")
    def _check_mrope(self) -> DecoderConfig:
        section, frequencies = self.mrope_section, self.head_size // 2
        if section is None:
            if self.mrope_interleaved:
                raise ValueError("mrope_interleaved is true, but there is no mrope_section to interleave")
            return self
        if len(section) != 3 or sum(section) != frequencies:
            raise ValueError(
                f"mrope_section {section} adds up to {sum(section)}; expected three numbers (time, height, width) that add up to "
                f"{frequencies}, half a head's width of {self.head_size}"
            )
        if self.mrope_interleaved and (most := max(3 * section[1] - 2, 3 * section[2] - 1)) >= frequencies:
            raise ValueError(f"mrope_section {section} cannot be interleaved: height or width would have frequency {most} of {frequencies}")
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
    def position_axes(self) -> int:
        return 3 if self.mrope_section else 1

    @property
    def max_sequence_length(self) -> int | None:
        longest = self.max_position_embeddings
        return self.rotary_scaling.longest(longest) if self.rotary_scaling else longest

    def numbers_by_length(self, longest: int) -> Mapping[str, Any]:
        if not isinstance(self.rotary_scaling, DynamicRotaryScaling) or longest <= self.max_position_embeddings:
            return {}
        return {"rotary_base": self.rotary_scaling.base(self.rotary_base, self.head_size, longest / self.max_position_embeddings)}

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
            "qk_layernorm": self.qk_layernorm,
            # Megatron counts the tokens before a token, and those behind it.
            "window_size": (self.sliding_window - 1, 0) if self.sliding_window else None,
        }
