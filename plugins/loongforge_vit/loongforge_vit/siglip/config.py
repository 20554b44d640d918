"""SigLIP's vision tower: sizes and token counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import Shape
from loongforge_vit.colours import Deviation, Mean
from loongforge_vit.tower.config import TowerConfig

__all__ = ["SiglipConfig"]


class SiglipConfig(TowerConfig):
    """A pre-norm vision transformer on fixed-size images, learned positions, no class token."""

    tiny = {**TowerConfig.tiny, "attention_pooling_head": False}

    num_layers: PositiveInt = 12
    hidden_size: PositiveInt = 768
    ffn_hidden_size: PositiveInt = 3072
    num_attention_heads: PositiveInt = 12
    image_size: PositiveInt = 224
    """Side of the square that every image is resized to, in pixels."""
    patch_size: PositiveInt = 16
    """Side of a patch, in pixels; rows and columns of pixels beyond a whole number of patches are not seen."""
    layernorm_epsilon: PositiveFloat = 1e-6
    feature_layer: int = -1
    """Layer whose output becomes the features: -1 the last, -2 the one before it, 0 the embeddings; the final norm is never
    applied to them, as in LLaVA. Parameters behind that layer are carried, untrained."""
    final_norm: bool = False
    """Apply the final norm to the last layer's output, as `SiglipVisionModel.last_hidden_state` does; needs `feature_layer: -1`."""
    attention_pooling_head: bool = True
    """The published folder has an attention-pooling head; it is carried, untrained, and never run."""
    image_mean: Mean = [0.5, 0.5, 0.5]
    image_std: Deviation = [0.5, 0.5, 0.5]

    @model_validator(mode="after")
    def _check_final_norm(self) -> SiglipConfig:
        if self.final_norm and self.num_layers_run != self.num_layers:
            raise ValueError("final_norm is applied to the last layer's output: it needs feature_layer -1")
        return self

    @property
    def fixed_item_size(self) -> Shape:
        return (self.image_size, self.image_size)

    def token_grid(self, size: Shape) -> Shape:
        """`size` is (height, width) in pixels, always the image size."""
        return (self.patches_per_side, self.patches_per_side)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {**super().transformer_fields(), "activation": "gelu_tanh"}
