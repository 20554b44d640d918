"""Qwen3-VL's vision tower: sizes."""

from __future__ import annotations

from pydantic import PositiveInt, model_validator

from loongforge_vit.native_resolution.config import NativeResolutionConfig

__all__ = ["Qwen3VlConfig"]


class Qwen3VlConfig(NativeResolutionConfig):
    """Learned positions drawn over each frame, rotary positions in two axes, and levels from earlier layers (DeepStack)."""

    tiny = {**NativeResolutionConfig.tiny, "num_layers": 3, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}

    num_layers: PositiveInt = 27
    hidden_size: PositiveInt = 1152
    ffn_hidden_size: PositiveInt = 4304
    num_attention_heads: PositiveInt = 16
    patch_size: PositiveInt = 16
    num_position_embeddings: PositiveInt = 2304
    """Entries of the square table of learned positions: 48 x 48."""
    deepstack_visual_indexes: list[int] = [8, 16, 24]
    """Layers, numbered from 0, whose outputs are the levels."""
    min_pixels: PositiveInt = 256 * 256
    max_pixels: PositiveInt = 4096 * 4096
    video_min_pixels: PositiveInt = 4096
    """Of all frames of a video together."""
    video_max_pixels: PositiveInt = 25_165_824

    @model_validator(mode="after")
    def _check(self) -> Qwen3VlConfig:
        if round(self.num_position_embeddings**0.5) ** 2 != self.num_position_embeddings:
            raise ValueError(f"num_position_embeddings {self.num_position_embeddings} is not a square")
        layers = self.deepstack_visual_indexes
        if layers != sorted(set(layers)) or any(not 0 <= layer < self.num_layers for layer in layers):
            raise ValueError(f"deepstack_visual_indexes {layers} are not ascending numbers of layers, 0 to {self.num_layers - 1}")
        return self

    @property
    def num_levels(self) -> int:
        return len(self.deepstack_visual_indexes)
