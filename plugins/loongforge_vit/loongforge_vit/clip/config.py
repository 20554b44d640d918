"""CLIP's vision tower: sizes and token counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from loongforge_core.component import Shape
from loongforge_vit.colours import Deviation, Mean
from loongforge_vit.tower.config import TowerConfig

__all__ = ["ClipConfig"]


class ClipConfig(TowerConfig):
    """A pre-norm vision transformer on fixed-size images: class token, learned positions, a norm before the first layer.

    The defaults are those of openai/clip-vit-large-patch14-336, with the features that LLaVA 1.5 takes of it.
    """

    num_layers: PositiveInt = 24
    hidden_size: PositiveInt = 1024
    ffn_hidden_size: PositiveInt = 4096
    num_attention_heads: PositiveInt = 16
    image_size: PositiveInt = 336
    """Side of the square that is cut out of the middle of every image, in pixels."""
    patch_size: PositiveInt = 14
    """Side of a patch, in pixels; rows and columns of pixels beyond a whole number of patches are not seen."""
    layernorm_epsilon: PositiveFloat = 1e-5
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    feature_layer: int = -2
    """Layer whose output becomes the features: -1 the last, -2 the one before it, 0 the embeddings; the final norm is never
    applied to them. Parameters behind that layer are carried, untrained."""
    class_token: Literal["dropped", "kept"] = "dropped"
    """Whether the class token's output is the first of the features: `full` in LLaVA's `vision_feature_select_strategy`."""
    image_mean: Mean = [0.48145466, 0.4578275, 0.40821073]
    image_std: Deviation = [0.26862954, 0.26130258, 0.27577711]

    @property
    def fixed_item_size(self) -> Shape:
        return (self.image_size, self.image_size)

    def token_grid(self, size: Shape) -> Shape:
        """`size` is (height, width) in pixels, always the image size. With the class token in front, tokens lie in a line."""
        side = self.patches_per_side
        return (side, side) if self.class_token == "dropped" else (1 + side * side,)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {**super().transformer_fields(), "activation": self.activation}
