"""Qwen2-Audio, as far as data workers and `validate` need it. Imports no torch."""

from __future__ import annotations

from loongforge_core.component import ItemMarkup, RecipeConfig

__all__ = ["Qwen2AudioRecipeConfig"]


class Qwen2AudioRecipeConfig(RecipeConfig):
    """A sound's tokens stand between two marks; positions are plain."""

    audio_token: str = "<|AUDIO|>"
    """The tokenizer's token that stands for a token of a sound."""
    audio_bos_token: str = "<|audio_bos|>"
    audio_eos_token: str = "<|audio_eos|>"

    def markup(self, modality: str) -> ItemMarkup:
        placeholder = {"audio": self.audio_token}[modality]
        return ItemMarkup(placeholder, before=self.audio_bos_token, after=self.audio_eos_token)
