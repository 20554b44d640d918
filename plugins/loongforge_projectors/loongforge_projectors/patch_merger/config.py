"""Qwen's patch merger: sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from loongforge_core.component import ProjectorConfig, Shape

__all__ = ["PatchMergerConfig"]


class PatchMergerConfig(ProjectorConfig):
    """A block of neighbouring features becomes one token: norm, features side by side, linear, GELU, linear."""

    tiny = {"init_method_std": 0.1}

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {
        "activation_func": {"gelu": {"activation": "gelu"}, "gelu_tanh": {"activation": "gelu_tanh"}},
        "gated_linear_unit": {False: {}},
        "add_bias_linear": {True: {}},
        "model_type": {"qwen2_5_vl_adapter": {}, "qwen3_vl_adapter": {"normalization": "LayerNorm"}},
    }

    spatial_merge_size: PositiveInt = 2
    """Features that are merged each way."""
    num_levels: NonNegativeInt = 0
    """Levels that its encoder emits; inferred. Each has a merger of its own, which normalises the merged features, not each feature."""
    normalization: Literal["LayerNorm", "RMSNorm"] = "RMSNorm"
    layernorm_epsilon: PositiveFloat = 1e-6
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    init_method_std: PositiveFloat = 0.02

    @property
    def merged_size(self) -> int:
        """Width of the features of a block side by side."""
        return self.input_size * self.spatial_merge_size**2

    @property
    def takes_levels(self) -> bool:
        return True

    def token_grid(self, grid: Shape) -> Shape:
        merge = self.spatial_merge_size
        if len(grid) < 2 or grid[-2] % merge or grid[-1] % merge:
            raise ValueError(f"features that lie {' x '.join(map(str, grid))} cannot be merged in blocks of {merge} x {merge}")
        return (*grid[:-2], grid[-2] // merge, grid[-1] // merge)
