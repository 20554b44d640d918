"""What a decoder with multi-head latent attention is: the part of its config that DeepSeek's families share. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PositiveInt, model_validator

from loongforge_core.component import indivisible
from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.rotary_config import YarnRotaryScaling

__all__ = ["LatentDecoderConfig"]


class LatentDecoderConfig(DecoderConfig):
    """Keys and values of all heads are made of one narrow state; a part of each key, the same in all heads, is turned by its position."""

    tiny = {
        **{name: value for name, value in DecoderConfig.tiny.items() if name != "num_query_groups"},
        "q_lora_rank": 12,
        "kv_lora_rank": 8,
        "qk_head_dim": 8,
        "qk_pos_emb_head_dim": 4,
        "v_head_dim": 6,
    }

    q_lora_rank: PositiveInt | None = None
    """Width of the state that queries are made of; default none, they are made of the layer's input."""
    kv_lora_rank: PositiveInt
    """Width of the state that keys and values are made of."""
    qk_head_dim: PositiveInt
    """Width of the part of a head's queries and keys that is not turned."""
    qk_pos_emb_head_dim: PositiveInt
    """Width of the part that is."""
    v_head_dim: PositiveInt
    """Width of a head's values."""
    num_query_groups: None = None
    kv_channels: None = None
    sliding_window: None = None

    @model_validator(mode="after")
    def _check_heads(self) -> LatentDecoderConfig:
        if self.head_size % 2:
            raise ValueError(f"rotary positions need an even width, qk_pos_emb_head_dim is {self.head_size}")
        return self

    @property
    def head_size(self) -> int:
        """Of the part that is turned."""
        return self.qk_pos_emb_head_dim

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        """Heads are cut, and the outputs of the projections to the narrow states, which are gathered again."""
        states = {"kv_lora_rank + qk_pos_emb_head_dim": self.kv_lora_rank + self.qk_pos_emb_head_dim}
        if self.q_lora_rank is not None:
            states["q_lora_rank"] = self.q_lora_rank
        return [*super().tensor_parallel_conflicts(size), *indivisible(size, **states)]

    def transformer_fields(self) -> Mapping[str, Any]:
        scaling = self.rotary_scaling if isinstance(self.rotary_scaling, YarnRotaryScaling) else None
        return {
            **super().transformer_fields(),
            "multi_latent_attention": True,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_head_dim": self.qk_head_dim,
            "qk_pos_emb_head_dim": self.qk_pos_emb_head_dim,
            "v_head_dim": self.v_head_dim,
            # Of Megatron's own rotary positions nothing is used but these two, by which attention grows sharper.
            "rope_type": "rope",
            "rotary_scaling_factor": scaling.factor if scaling else 1.0,
            "mscale_all_dim": (scaling.mscale_all_dim or 0.0) if scaling else 0.0,
        }
