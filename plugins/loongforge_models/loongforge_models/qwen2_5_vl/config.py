"""Qwen2.5-VL, as far as data workers and `validate` need it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from loongforge_core.component import ItemSpan
from loongforge_models.qwen_vl.config import QwenVlRecipeConfig
from loongforge_models.qwen_vl.positions import mrope_positions

__all__ = ["TOKENS_PER_SECOND", "Qwen25VlRecipeConfig"]

TOKENS_PER_SECOND = 2
"""By how much a video's positions in time advance in a second, in every published size."""


class Qwen25VlRecipeConfig(QwenVlRecipeConfig):
    """A video is one run of tokens, whose positions in time are absolute."""

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {
        **QwenVlRecipeConfig.original_forms,
        "position_idx_func": {"mrope_ids": {}},
    }

    @property
    def position_axes(self) -> int:
        return 3

    def position_ids(self, length: int, spans: Sequence[ItemSpan]) -> np.ndarray:
        return mrope_positions(length, spans, time_between_steps)


def time_between_steps(span: ItemSpan) -> float:
    """Of an image 1, which has a single step."""
    if span.modality != "video":
        return 1.0
    return float(np.float32(TOKENS_PER_SECOND) * np.float32(span.details.get("seconds_per_step", 1.0)))
