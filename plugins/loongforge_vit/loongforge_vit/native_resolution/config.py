"""What vision towers that take images and videos of any size have in common: sizes of patches, token counts, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import EncoderConfig, Shape, indivisible
from loongforge_vit.colours import Deviation, Mean

__all__ = ["MOST_ELONGATED", "NativeResolutionConfig"]

MOST_ELONGATED = 200
"""Largest ratio of an image's sides; the same limit as transformers'."""


class NativeResolutionConfig(EncoderConfig):
    """A transformer over patches of any number and aspect ratio, packed without padding.

    An item's size is `(frames, rows, columns)` in patches, a patch being `temporal_patch_size` frames deep. Each frame attends within
    itself. There is a feature for every patch, frame by frame, row by row.
    """

    tiny = {
        "num_layers": 2,
        "hidden_size": 16,
        "ffn_hidden_size": 24,
        "num_attention_heads": 2,
        "patch_size": 4,
        "min_pixels": 64,
        "max_pixels": 1024,
        "init_method_std": 0.1,
    }
    backends = ("torch", "transformer_engine")

    num_layers: PositiveInt
    hidden_size: PositiveInt
    ffn_hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    patch_size: PositiveInt
    """Side of a patch, in pixels."""
    temporal_patch_size: PositiveInt = 2
    """Frames that a patch spans; an image is repeated."""
    spatial_merge_size: PositiveInt = 2
    """Items have whole blocks of so many patches each way, which a projector may merge, and pixels come block by block."""
    num_channels: PositiveInt = 3
    layernorm_epsilon: PositiveFloat = 1e-6
    rotary_base: PositiveFloat = 10_000.0
    min_pixels: PositiveInt
    """An image of fewer pixels is enlarged to them."""
    max_pixels: PositiveInt
    """An image of more pixels is made smaller than them."""
    frames_per_second: PositiveFloat = 2.0
    """Of a video that is a folder of frames; one that is a list says it itself."""
    image_mean: Mean = [0.5, 0.5, 0.5]
    image_std: Deviation = [0.5, 0.5, 0.5]
    init_method_std: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _check_heads(self) -> NativeResolutionConfig:
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 4 x num_attention_heads {self.num_attention_heads}: "
                "half of a head turns in pairs by its patch's row, half by its column"
            )
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        return self

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def block_size(self) -> int:
        """Side of a block of patches, in pixels: heights and widths are multiples of it."""
        return self.patch_size * self.spatial_merge_size

    @property
    def feature_size(self) -> int:
        return self.hidden_size

    @property
    def typical_item_size(self) -> Shape:
        """The smallest image: a projector that takes it takes all."""
        return (1, self.spatial_merge_size, self.spatial_merge_size)

    def largest_item_size(self, modality: str) -> Shape | None:
        """Of images, as many blocks of patches as the limits leave room for, in one row; a video may have any number of frames."""
        if modality == "video":
            return None
        room, least = self.max_pixels // self.block_size**2, self.min_pixels / self.block_size**2
        # Sides that are enlarged to `min_pixels` are rounded up, most where the image is elongated.
        rounded_up = int((math.sqrt(least * MOST_ELONGATED) + 1) * (math.sqrt(least / MOST_ELONGATED) + 1))
        return (1, self.spatial_merge_size, max(1, room, rounded_up) * self.spatial_merge_size)

    def token_grid(self, size: Shape) -> Shape:
        """`size` itself: there is a feature for every patch."""
        merge = self.spatial_merge_size
        if len(size) != 3 or min(size) < 1 or size[1] % merge or size[2] % merge:
            raise ValueError(f"size {size} is not (frames, rows, columns) of patches with rows and columns that are multiples of {merge}")
        return size

    def cost(self, size: Shape) -> float:
        """Tokens, each worth as much more as its attention takes beside the products with weights: it grows with the frame."""
        frames, rows, columns = size
        return frames * rows * columns * (1 + self.attention_share(rows * columns))

    def attention_share(self, reach: int) -> float:
        """Operations of attention to `reach` patches, relative to those with a layer's weights."""
        gate = 3 if self.transformer_fields()["gated_linear_unit"] else 2
        return 2 * reach / (4 * self.hidden_size + gate * self.ffn_hidden_size)

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, num_attention_heads=self.num_attention_heads, ffn_hidden_size=self.ffn_hidden_size)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "normalization": "LayerNorm",
            "layernorm_epsilon": self.layernorm_epsilon,
            "activation": "gelu_tanh",
            "gated_linear_unit": False,
            "add_bias_linear": True,
        }
