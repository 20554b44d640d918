"""A vision tower on square pictures of one size: the sizes that all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import EncoderConfig, indivisible
from loongforge_vit.colours import Deviation, Mean

__all__ = ["TowerConfig"]


class TowerConfig(EncoderConfig):
    """A pre-norm vision transformer with learned positions, whose features are the output of any of its layers."""

    tiny = {
        "num_layers": 2,
        "hidden_size": 16,
        "ffn_hidden_size": 24,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 6,
        "init_method_std": 0.1,
    }
    backends = ("torch", "transformer_engine")

    num_layers: PositiveInt
    hidden_size: PositiveInt
    ffn_hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    image_size: PositiveInt
    """Side of the square pictures, in pixels."""
    patch_size: PositiveInt
    """Side of a patch, in pixels; rows and columns of pixels beyond a whole number of patches are not seen."""
    num_channels: PositiveInt = 3
    layernorm_epsilon: PositiveFloat
    feature_layer: int = -1
    """Layer whose output becomes the features: -1 the last, -2 the one before it, 0 the embeddings. Parameters behind that layer are
    carried, untrained."""
    image_mean: Mean
    image_std: Deviation
    init_method_std: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _check_sizes(self) -> TowerConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}")
        if not -self.num_layers - 1 <= self.feature_layer <= self.num_layers:
            raise ValueError(f"feature_layer {self.feature_layer} is outside -{self.num_layers + 1} .. {self.num_layers}")
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is smaller than patch_size {self.patch_size}")
        return self

    @property
    def num_layers_run(self) -> int:
        """Layers up to and including the feature layer."""
        return self.feature_layer if self.feature_layer >= 0 else self.num_layers + 1 + self.feature_layer

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def feature_size(self) -> int:
        return self.hidden_size

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, num_attention_heads=self.num_attention_heads, ffn_hidden_size=self.ffn_hidden_size)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": max(1, self.num_layers_run),  # Megatron divides by it; the block has as many layers as its specs
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "normalization": "LayerNorm",
            "layernorm_epsilon": self.layernorm_epsilon,
            "activation": "gelu",
            "gated_linear_unit": False,
            "add_bias_linear": True,
        }
