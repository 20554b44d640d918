"""RICE-ViT: sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import Shape
from loongforge_vit.colours import Deviation, Mean
from loongforge_vit.native_resolution.config import NativeResolutionConfig

__all__ = ["RiceVitConfig"]


class RiceVitConfig(NativeResolutionConfig):
    """A class token in each frame, rotary positions in two axes, a norm before the layers and none behind them."""

    num_layers: PositiveInt = 24
    hidden_size: PositiveInt = 1024
    ffn_hidden_size: PositiveInt = 4096
    num_attention_heads: PositiveInt = 16
    patch_size: PositiveInt = 14
    temporal_patch_size: Literal[1] = 1
    """Patches are one frame deep."""
    layernorm_epsilon: PositiveFloat = 1e-5
    min_pixels: PositiveInt = 56 * 56
    max_pixels: PositiveInt = 1800 * 1800
    image_mean: Mean = [0.48145466, 0.4578275, 0.40821073]
    image_std: Deviation = [0.26862954, 0.26130258, 0.27577711]

    @model_validator(mode="after")
    def _check(self) -> RiceVitConfig:
        if self.rotary_base != 10_000.0:
            raise ValueError(f"rotary_base is {self.rotary_base}, but the published format knows 10000 only")
        return self

    def cost(self, size: Shape) -> float:
        frames, rows, columns = size
        length = 1 + rows * columns
        return frames * length * (1 + self.attention_share(length))

    def transformer_fields(self) -> Mapping[str, Any]:
        return {**super().transformer_fields(), "activation": "gelu"}
