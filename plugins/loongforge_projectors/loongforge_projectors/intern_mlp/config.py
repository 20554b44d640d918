"""InternVL's projector: sizes and token counts."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from loongforge_core.component import ProjectorConfig, Shape

__all__ = ["BLOCK", "InternMlpConfig"]

BLOCK = 2
"""Rows and columns of features that become one: InternVL's `downsample_ratio` of a half."""


class InternMlpConfig(ProjectorConfig):
    """Four neighbouring features become one, four times as wide: a norm, then two linear layers with a GELU between them."""

    tiny = {"init_method_std": 0.1}

    ffn_hidden_size: PositiveInt | None = None
    """Width between the layers; default `hidden_size`, as InternVL has it."""
    normalization: Literal["LayerNorm", "RMSNorm"] = "LayerNorm"
    """Every published InternVL has LayerNorm."""
    layernorm_epsilon: PositiveFloat = 1e-5
    init_method_std: PositiveFloat = 0.02

    @property
    def shuffled_size(self) -> int:
        """Width of four features together."""
        return BLOCK**2 * self.input_size

    @property
    def takes_levels(self) -> bool:
        return True

    def token_grid(self, grid: Shape) -> Shape:
        """`grid` is (rows, columns), behind any number of axes that count tiles or frames: half as many of both."""
        if len(grid) < 2:
            lie = " x ".join(map(str, grid))
            raise ValueError(f"intern_mlp joins features that lie in rows and columns; the encoder's lie {lie}")
        *outer, rows, columns = grid
        if rows % BLOCK or columns % BLOCK:
            raise ValueError(
                f"intern_mlp joins {BLOCK} x {BLOCK} features, so that rows and columns must be even; the encoder's are {rows} x {columns}"
            )
        return (*outer, rows // BLOCK, columns // BLOCK)
