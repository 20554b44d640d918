"""LLaVA, as far as data workers and `validate` need it. Imports no torch."""

from __future__ import annotations

from loongforge_core.component import ItemMarkup, RecipeConfig

__all__ = ["LlavaConfig"]


class LlavaConfig(RecipeConfig):
    """One encoder of images, one projector, one language model; an image's tokens follow one another without markup."""

    behaves_as_default = True

    image_token: str = "<image>"
    """The tokenizer's token that stands for an image in a prompt."""

    def markup(self, modality: str) -> ItemMarkup:
        if modality != "image":
            raise KeyError(modality)
        return ItemMarkup(placeholder=self.image_token)
