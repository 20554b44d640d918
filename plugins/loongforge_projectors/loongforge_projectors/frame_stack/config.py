"""Stacked frames: sizes and token counts."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from loongforge_core.component import ProjectorConfig, Shape

__all__ = ["FrameStackConfig"]


class FrameStackConfig(ProjectorConfig):
    """Consecutive features side by side, then linear, GELU, linear."""

    tiny = {"stack_size": 4, "init_method_std": 0.1}

    stack_size: PositiveInt = 4
    """Features that become one token. An item's last stack is filled up with zeros; no stack has features of two items."""
    ffn_hidden_size: PositiveInt | None = None
    """Width between the layers; default `hidden_size`."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    add_bias_linear: bool = True
    init_method_std: PositiveFloat = 0.02

    def token_grid(self, grid: Shape) -> Shape:
        if len(grid) != 1:
            raise ValueError(f"features that lie {' x '.join(map(str, grid))} cannot be stacked: only frames in a row can")
        return (-(-grid[0] // self.stack_size),)
