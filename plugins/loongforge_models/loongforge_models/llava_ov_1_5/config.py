"""LLaVA-OneVision 1.5, as far as data workers and `validate` need it. Imports no torch."""

from __future__ import annotations

from loongforge_models.qwen_vl.config import QwenVlRecipeConfig

__all__ = ["LlavaOv15RecipeConfig"]


class LlavaOv15RecipeConfig(QwenVlRecipeConfig):
    """Images and videos are written as Qwen2.5-VL writes them, by its processor; positions are plain."""
