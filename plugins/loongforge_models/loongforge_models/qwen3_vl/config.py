"""Qwen3-VL, as far as data workers and `validate` need it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from loongforge_core.component import ItemRun, ItemSpan, Shape
from loongforge_core.errors import PluginError
from loongforge_models.qwen_vl.config import QwenVlRecipeConfig
from loongforge_models.qwen_vl.positions import mrope_positions

__all__ = ["Qwen3VlRecipeConfig"]


class Qwen3VlRecipeConfig(QwenVlRecipeConfig):
    """A video is a run of tokens for each of its steps, with positions like an image's; when it was seen stands before it, in words."""

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {
        **QwenVlRecipeConfig.original_forms,
        "position_idx_func": {"rope_ids_qwen3vl": {}},
    }

    def runs(self, modality: str, grid: Shape, details: Mapping[str, Any]) -> Sequence[ItemRun]:
        """A video's stand within the marks that the template writes around the whole of it, as transformers has it since version 5."""
        if modality != "video":
            return super().runs(modality, grid, details)
        steps, timestamps = grid[0], details.get("timestamps", ())
        if len(timestamps) != steps:
            raise PluginError(f"recipe qwen3_vl writes when each of a video's {steps} steps was seen, but its processor says {timestamps}")
        return [
            ItemRun((1, *grid[1:]), before=f"<{seconds:.1f} seconds>{self.vision_start_token}", after=self.vision_end_token)
            for seconds in timestamps
        ]

    @property
    def position_axes(self) -> int:
        return 3

    def position_ids(self, length: int, spans: Sequence[ItemSpan]) -> np.ndarray:
        return mrope_positions(length, spans)
