"""SigLIP's vision tower: sizes and token counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import EncoderConfig, Shape, indivisible

__all__ = ["SiglipConfig"]


class SiglipConfig(EncoderConfig):
    """A pre-norm vision transformer on fixed-size images, learned positions, no class token."""

    num_layers: PositiveInt = 12
    hidden_size: PositiveInt = 768
    ffn_hidden_size: PositiveInt = 3072
    num_attention_heads: PositiveInt = 12
    image_size: PositiveInt = 224
    """Side of the square that every image is resized to, in pixels."""
    patch_size: PositiveInt = 16
    """Side of a patch, in pixels; rows and columns of pixels beyond a whole number of patches are not seen."""
    num_channels: PositiveInt = 3
    layernorm_epsilon: PositiveFloat = 1e-6
    feature_layer: int = -1
    """Layer whose output becomes the features: -1 the last, -2 the one before it, 0 the embeddings; the final norm is never
    applied to them, as in LLaVA. Parameters behind that layer are carried, untrained."""
    final_norm: bool = False
    """Apply the final norm to the last layer's output, as `SiglipVisionModel.last_hidden_state` does; needs `feature_layer: -1`."""
    attention_pooling_head: bool = True
    """The published folder has an attention-pooling head; it is carried, untrained, and never run."""
    image_mean: list[float] = [0.5, 0.5, 0.5]
    image_std: list[float] = [0.5, 0.5, 0.5]
    init_method_std: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _check(self) -> SiglipConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}")
        if not -self.num_layers - 1 <= self.feature_layer <= self.num_layers:
            raise ValueError(f"feature_layer {self.feature_layer} is outside -{self.num_layers + 1} .. {self.num_layers}")
        if self.final_norm and self.num_layers_run != self.num_layers:
            raise ValueError("final_norm is applied to the last layer's output: it needs feature_layer -1")
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is smaller than patch_size {self.patch_size}")
        return self

    @property
    def num_layers_run(self) -> int:
        """Layers up to and including the feature layer."""
        return self.feature_layer if self.feature_layer >= 0 else self.num_layers + 1 + self.feature_layer

    @property
    def feature_size(self) -> int:
        return self.hidden_size

    @property
    def fixed_item_size(self) -> Shape:
        return (self.image_size, self.image_size)

    def token_grid(self, size: Shape) -> Shape:
        """`size` is (height, width) in pixels, always the image size."""
        side = self.image_size // self.patch_size
        return (side, side)

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, num_attention_heads=self.num_attention_heads, ffn_hidden_size=self.ffn_hidden_size)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": self.num_layers_run,
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "normalization": "LayerNorm",
            "layernorm_epsilon": self.layernorm_epsilon,
            "activation": "gelu_tanh",
            "gated_linear_unit": False,
            "add_bias_linear": True,
        }
