"""Qwen2-Audio's projector: sizes."""

from __future__ import annotations

from pydantic import PositiveFloat

from loongforge_core.component import ProjectorConfig

__all__ = ["LinearConfig"]


class LinearConfig(ProjectorConfig):
    """One linear layer, token by token."""

    tiny = {"init_method_std": 0.1}

    add_bias_linear: bool = True
    init_method_std: PositiveFloat = 0.02

    @property
    def takes_levels(self) -> bool:
        return True
