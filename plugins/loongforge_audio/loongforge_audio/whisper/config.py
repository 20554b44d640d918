"""Whisper's encoder: sizes and token counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import EncoderConfig, Shape, indivisible

__all__ = ["WhisperConfig"]


class WhisperConfig(EncoderConfig):
    """Two convolutions, fixed sinusoidal positions, a pre-norm transformer. Every sound is padded with silence to one length."""

    tiny = {
        "num_layers": 2,
        "hidden_size": 16,
        "ffn_hidden_size": 24,
        "num_attention_heads": 2,
        "num_mel_bins": 16,
        "max_source_positions": 50,
        "init_method_std": 0.1,
    }
    backends = ("torch", "transformer_engine")

    num_layers: PositiveInt = 4
    hidden_size: PositiveInt = 384
    ffn_hidden_size: PositiveInt = 1536
    num_attention_heads: PositiveInt = 6
    num_mel_bins: PositiveInt = 80
    """Frequency bands of a frame. Frames are 10 ms apart."""
    max_source_positions: PositiveInt = 1500
    """Positions behind the convolutions, each 20 ms: the longest sound has twice as many frames. 1500 are thirty seconds."""
    init_method_std: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _check(self) -> WhisperConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}")
        if self.hidden_size % 2 or self.hidden_size < 4:
            raise ValueError(f"hidden_size {self.hidden_size} must be even and at least 4: half of a position is sines, half cosines")
        return self

    @property
    def max_frames(self) -> int:
        """Frames of the longest sound."""
        return 2 * self.max_source_positions

    @property
    def feature_size(self) -> int:
        return self.hidden_size

    @property
    def fixed_item_size(self) -> Shape | None:
        return (self.max_frames,)

    def num_rows(self, size: Shape) -> int:
        """Frames that the processor hands over for a sound of `size`."""
        return self.max_frames

    def num_positions(self, size: Shape) -> int:
        """Positions that the transformer sees of it."""
        return self.max_source_positions

    def token_grid(self, size: Shape) -> Shape:
        """`size` is (frames,), always `max_frames`: silence is encoded like sound."""
        return (self.max_source_positions,)

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, num_attention_heads=self.num_attention_heads, ffn_hidden_size=self.ffn_hidden_size)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "normalization": "LayerNorm",
            "layernorm_epsilon": 1e-5,
            "activation": "gelu",
            "gated_linear_unit": False,
            "add_bias_linear": True,
        }
