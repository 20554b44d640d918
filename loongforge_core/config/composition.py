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

__all__ = ["FOUNDATION", "Composition", "Slot", "encoder_slot", "projector_slot"]

FOUNDATION = "foundation"


def encoder_slot(modality: str) -> str:
    return f"{modality}_encoder"


def projector_slot(modality: str) -> str:
    return f"{modality}_projector"


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

    def describe_slot(self, name: str) -> str:
        """Widths, and tokens where they are known, in a few words."""
        config, modality = self.slots[name].config, name.rpartition("_")[0]
        if isinstance(config, EncoderConfig):
            tokens = self.tokens_per_item(modality)
            return f"features {config.feature_size} wide, {f'{tokens} tokens' if tokens else 'tokens by size'} per {modality}"
        if isinstance(config, ProjectorConfig):
            return f"{config.input_size} -> {config.hidden_size}"
        assert isinstance(config, BackboneConfig)
        return f"{config.num_layers} layers, {config.hidden_size} wide, vocabulary {config.vocab_size}"
