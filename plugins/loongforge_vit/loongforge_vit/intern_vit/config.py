"""InternViT: sizes, how an image is cut into tiles, and token counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import Shape
from loongforge_vit.colours import Deviation, Mean
from loongforge_vit.tower.config import TowerConfig

__all__ = ["InternVitConfig"]


class InternVitConfig(TowerConfig):
    """A pre-norm vision transformer on tiles of an image: class token, learned positions, scaled residual branches.

    The defaults are those of InternViT-300M-448px.
    """

    tiny = {**TowerConfig.tiny, "max_tiles": 4}

    num_layers: PositiveInt = 24
    hidden_size: PositiveInt = 1024
    ffn_hidden_size: PositiveInt = 4096
    num_attention_heads: PositiveInt = 16
    image_size: PositiveInt = 448
    """Side of a tile, in pixels."""
    patch_size: PositiveInt = 14
    """Side of a patch, in pixels; rows and columns of pixels beyond a whole number of patches are not seen."""
    normalization: Literal["LayerNorm", "RMSNorm"] = "LayerNorm"
    """The norms before attention and MLP."""
    layernorm_epsilon: PositiveFloat = 1e-6
    """Of every norm; with `qk_layernorm` 1e-6."""
    add_qkv_bias: bool = True
    qk_layernorm: bool = False
    """Queries, and keys, are RMS-normalised over all heads together, as in the 6B."""
    layer_scale_init: PositiveFloat = 0.1
    """Initial factors of every layer's two residual branches."""
    min_tiles: PositiveInt = 1
    """Fewest tiles that an image is cut into, the thumbnail not counted."""
    max_tiles: PositiveInt = 12
    """Most tiles that an image is cut into, the thumbnail not counted."""
    use_thumbnail: bool = True
    """The whole image follows as one more tile where it was cut into several."""
    image_mean: Mean = [0.485, 0.456, 0.406]
    image_std: Deviation = [0.229, 0.224, 0.225]

    @model_validator(mode="after")
    def _check_epsilon(self) -> InternVitConfig:
        if self.qk_layernorm and self.layernorm_epsilon != 1e-6:
            raise ValueError(
                f"layernorm_epsilon is {self.layernorm_epsilon}, but qk_layernorm needs 1e-6: transformers has it there whatever "
                "config.json says, and OpenGVLab's code has what it says"
            )
        return self

    @model_validator(mode="after")
    def _check_tiles(self) -> InternVitConfig:
        if self.min_tiles > self.max_tiles:
            raise ValueError(f"min_tiles {self.min_tiles} is above max_tiles {self.max_tiles}")
        if not tilings(self.min_tiles, self.max_tiles):
            raise ValueError(f"no number of rows and columns makes {self.min_tiles} to {self.max_tiles} tiles")
        return self

    @property
    def fixed_item_size(self) -> Shape | None:
        return (1,) if self.max_tiles == 1 else None

    @property
    def typical_item_size(self) -> Shape:
        return (1,)

    def largest_item_size(self, modality: str) -> Shape | None:
        """Of images, the most tiles; a video has a tile for every frame."""
        if modality == "video":
            return None
        rows, columns = tilings(self.min_tiles, self.max_tiles)[-1]
        return (rows * columns + int(self.use_thumbnail and rows * columns > 1),)

    def token_grid(self, size: Shape) -> Shape:
        """`size` is (tiles,); tokens lie as (tiles, rows, columns), the class tokens are dropped."""
        if len(size) != 1 or size[0] < 1:
            raise ValueError(f"an item of intern_vit has a size of (tiles,), at least one; given was {size}")
        return (size[0], self.patches_per_side, self.patches_per_side)

    def tiling(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles that an image of so many pixels is cut into: those whose shape is nearest to the image's.

        Of two that are as near, the one of more tiles, where the image has more than half of their pixels.
        """
        best, least = (1, 1), float("inf")
        for rows, columns in tilings(self.min_tiles, self.max_tiles):
            difference = abs(width / height - columns / rows)
            large_enough = height * width > 0.5 * self.image_size**2 * rows * columns
            if difference < least or (difference == least and large_enough):
                best, least = (rows, columns), difference
        return best

    def num_tiles(self, height: int, width: int) -> int:
        """Of an image of so many pixels, the thumbnail included."""
        rows, columns = self.tiling(height, width)
        return rows * columns + int(self.use_thumbnail and rows * columns > 1)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {**super().transformer_fields(), "normalization": self.normalization, "add_qkv_bias": self.add_qkv_bias}


def tilings(fewest: int, most: int) -> list[tuple[int, int]]:
    """All rows and columns of so many tiles, fewer tiles first, and of as many tiles fewer columns first."""
    grids = ((rows, columns) for columns in range(1, most + 1) for rows in range(1, most + 1))
    return sorted(((rows, columns) for rows, columns in grids if fewest <= rows * columns <= most), key=lambda grid: grid[0] * grid[1])
