"""The default recipe, as far as data workers and `validate` need it. Imports no torch."""

from __future__ import annotations

from loongforge_core.component import ItemMarkup, RecipeConfig

__all__ = ["DefaultRecipeConfig"]


class DefaultRecipeConfig(RecipeConfig):
    """Free combinations: an item of any modality is written `<modality>` in a prompt."""

    behaves_as_default = True

    def markup(self, modality: str) -> ItemMarkup:
        return ItemMarkup(placeholder=f"<{modality}>")
