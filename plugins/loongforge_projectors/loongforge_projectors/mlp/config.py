"""LLaVA's projector: sizes."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from loongforge_core.component import ProjectorConfig

__all__ = ["MlpConfig"]


class MlpConfig(ProjectorConfig):
    """Two linear layers with a GELU between them, token by token."""

    tiny = {"init_method_std": 0.1}

    ffn_hidden_size: PositiveInt | None = None
    """Width between the layers; default `hidden_size`, as LLaVA has it."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    add_bias_linear: bool = True
    init_method_std: PositiveFloat = 0.02

    @property
    def takes_levels(self) -> bool:
        return True
