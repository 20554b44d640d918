"""A checked composition: what YAML and overrides came to, typed, with every component's config validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loongforge_core.component import (
    BackboneConfig,
    ComponentConfig,
    ComponentSpec,
    EncoderConfig,
    ProjectorConfig,
    RecipeConfig,
    Shape,
)
from loongforge_core.config.settings import RunSettings, SlotSettings
from loongforge_core.config.slot_names import FOUNDATION, encoder_slot, projector_slot

__all__ = ["Composition", "Slot", "described"]


@dataclass(frozen=True)
class Slot:
    """One filled place of `model:`."""

    name: str
    spec: ComponentSpec
    config: ComponentConfig
    settings: SlotSettings


@dataclass(frozen=True)
class Composition:
    """A model and a run, ready to build."""

    name: str
    """The file's stem, or the published name."""
    slots: Mapping[str, Slot]
    """By name; encoders, projectors, then the foundation."""
    recipe: ComponentSpec
    recipe_config: RecipeConfig
    run: RunSettings
    resolved: Mapping[str, Any]
    """The whole tree after composition and inference, as plain data, to be written beside a run."""

    @property
    def encoded_by(self) -> Mapping[str, str]:
        """The modalities that are encoded, in the order of the slots: each with the one after which its encoder's slot is named."""
        encoders = {name.removesuffix("_encoder"): slot for name, slot in self.slots.items() if name.endswith("_encoder")}
        return {modality: own for own, slot in encoders.items() for modality in (own, *slot.settings.also_encodes)}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those with an encoder, in the order of the slots."""
        return tuple(self.encoded_by)

    def encoder_of(self, modality: str) -> Slot:
        return self.slots[encoder_slot(self.encoded_by[modality])]

    @property
    def foundation(self) -> BackboneConfig | None:
        slot = self.slots.get(FOUNDATION)
        return slot.config if slot else None  # type: ignore[return-value]

    def encoder(self, modality: str) -> EncoderConfig:
        return self.encoder_of(modality).config  # type: ignore[return-value]

    def projector(self, modality: str) -> ProjectorConfig | None:
        slot = self.slots.get(projector_slot(self.encoded_by[modality]))
        return slot.config if slot else None  # type: ignore[return-value]

    def item_grid(self, modality: str, size: Shape) -> Shape:
        """How the tokens of an item lie in the language model's sequence."""
        grid = self.encoder(modality).token_grid(size)
        projector = self.projector(modality)
        return projector.token_grid(grid) if projector else grid

    def tokens_per_item(self, modality: str) -> int | None:
        """Tokens of every item in the language model's sequence; None where items differ in size."""
        size = self.encoder(modality).fixed_item_size
        return None if size is None else math.prod(self.item_grid(modality, size))

    def most_tokens_per_item(self, modality: str) -> int | None:
        """No item gives more in the language model's sequence; None where no limit is known."""
        size = self.encoder(modality).largest_item_size(modality)
        try:
            return None if size is None else math.prod(self.item_grid(modality, size))
        except ValueError:  # the projector takes no features that lie so
            return None

    def describe_slot(self, name: str) -> str:
        """Widths, and tokens where they are known, in a few words."""
        config, own = self.slots[name].config, name.rpartition("_")[0]
        if not isinstance(config, EncoderConfig):
            return described(config)
        return described(config, ", ".join(self._tokens_in_words(modality) for modality, slot in self.encoded_by.items() if slot == own))

    def _tokens_in_words(self, modality: str) -> str:
        if tokens := self.tokens_per_item(modality):
            return f"{tokens} tokens per {modality}"
        most = self.most_tokens_per_item(modality)
        return f"at most {most} tokens per {modality}" if most else f"tokens per {modality} by its size"


def described(config: ComponentConfig, tokens: str = "") -> str:
    """A component's widths in a few words. `tokens`: what an encoder gives behind its projector, where that is known."""
    if isinstance(config, EncoderConfig):
        size = config.fixed_item_size
        return f"features {config.feature_size} wide, {tokens or (f'{config.num_tokens(size)} per item' if size else 'tokens by size')}"
    if isinstance(config, ProjectorConfig):
        return f"{config.input_size} -> {config.hidden_size}"
    assert isinstance(config, BackboneConfig)
    return f"{config.num_layers} layers, {config.hidden_size} wide, vocabulary {config.vocab_size}"
