"""InternVL, as far as data workers and `validate` need it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from loongforge_core.component import ItemMarkup, ItemRun, RecipeConfig, Shape

__all__ = ["InternVlRecipeConfig"]


class InternVlRecipeConfig(RecipeConfig):
    """An image's tiles, the thumbnail last, stand as one run of tokens between two marks; a video's frames each by themselves."""

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {
        "loss_func": {"loss_func_internvl": {}},
        "position_idx_func": {"position_ids": {}},
    }

    image_token: str = "<IMG_CONTEXT>"
    """The tokenizer's token that stands for a token of an image."""
    video_token: str = "<video>"
    """What stands for a whole video in a prompt."""
    start_image_token: str = "<img>"
    end_image_token: str = "</img>"

    def markup(self, modality: str) -> ItemMarkup:
        return ItemMarkup({"image": self.image_token, "video": self.video_token}[modality])

    def runs(self, modality: str, grid: Shape, details: Mapping[str, Any]) -> Sequence[ItemRun]:
        """The marks are written here, not by a template: a published one writes the placeholder alone."""
        if modality == "image":
            return [ItemRun(grid, before=self.start_image_token, after=self.end_image_token)]
        return [
            ItemRun((1, *grid[1:]), before=f"{separator}Frame{frame}: {self.start_image_token}", after=self.end_image_token)
            for frame, separator in enumerate(["", *["\n"] * (grid[0] - 1)], 1)
        ]
