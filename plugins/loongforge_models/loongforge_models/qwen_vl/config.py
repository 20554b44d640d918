"""What the recipes of Qwen's vision-language models, and of those that took over their tokens, have in common: how items are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from loongforge_core.component import ItemMarkup, RecipeConfig

__all__ = ["QwenVlRecipeConfig"]


class QwenVlRecipeConfig(RecipeConfig):
    """Images and videos stand between two marks."""

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {
        # Videos go through the encoder of images: here the slot says so, `also_encodes: [video]`.
        "mix_used_vision_encoder": {True: {}},
        "mix_used_vision_projector": {True: {}},
    }

    image_token: str = "<|image_pad|>"
    """The tokenizer's token that stands for a token of an image."""
    video_token: str = "<|video_pad|>"
    """The tokenizer's token that stands for a token of a video."""
    vision_start_token: str = "<|vision_start|>"
    vision_end_token: str = "<|vision_end|>"

    def markup(self, modality: str) -> ItemMarkup:
        placeholder = {"image": self.image_token, "video": self.video_token}[modality]
        return ItemMarkup(placeholder, before=self.vision_start_token, after=self.vision_end_token)
