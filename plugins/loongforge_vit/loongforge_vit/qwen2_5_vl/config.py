"""Qwen2.5-VL's vision tower: sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt, model_validator

from loongforge_core.component import Shape
from loongforge_vit.colours import Deviation, Mean
from loongforge_vit.native_resolution.config import NativeResolutionConfig

__all__ = ["Qwen25VlConfig"]

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


class Qwen25VlConfig(NativeResolutionConfig):
    """Most layers attend within windows, a few within whole frames; rotary positions in two axes, no learned ones."""

    tiny = {**NativeResolutionConfig.tiny, "window_size": 16, "fullatt_block_indexes": [1]}

    num_layers: PositiveInt = 32
    hidden_size: PositiveInt = 1280
    ffn_hidden_size: PositiveInt = 3420
    num_attention_heads: PositiveInt = 16
    patch_size: PositiveInt = 14
    window_size: PositiveInt = 112
    """Side of a window, in pixels; windows have whole blocks of patches that are merged."""
    fullatt_block_indexes: list[int] = [7, 15, 23, 31]
    """Layers, numbered from 0, that attend within whole frames."""
    min_pixels: PositiveInt = 56 * 56
    max_pixels: PositiveInt = 3584 * 3584
    video_min_pixels: PositiveInt = 128 * 28 * 28
    """Of each frame of a video."""
    video_max_pixels: PositiveInt = 768 * 28 * 28
    image_mean: Mean = CLIP_MEAN
    image_std: Deviation = CLIP_STD

    @model_validator(mode="after")
    def _check(self) -> Qwen25VlConfig:
        if self.window_size < self.block_size:
            raise ValueError(f"window_size {self.window_size} is smaller than a block of {self.block_size} pixels that is merged")
        if wrong := [layer for layer in self.fullatt_block_indexes if not 0 <= layer < self.num_layers]:
            raise ValueError(f"fullatt_block_indexes: {wrong} are no layers, which are numbered 0 to {self.num_layers - 1}")
        return self

    @property
    def window_side(self) -> int:
        """Side of a window, in patches."""
        return self.window_size // self.block_size * self.spatial_merge_size

    def cost(self, size: Shape) -> float:
        frames, rows, columns = size
        window = min(rows, self.window_side) * min(columns, self.window_side)
        full = len(set(self.fullatt_block_indexes)) / self.num_layers
        share = full * self.attention_share(rows * columns) + (1 - full) * self.attention_share(window)
        return frames * rows * columns * (1 + share)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {**super().transformer_fields(), "normalization": "RMSNorm", "activation": "silu", "gated_linear_unit": True}
