"""A component at its tiny size, in a composition with known good neighbours, and the items that it is tried with. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from loongforge_core.component import BackboneConfig, ComponentSpec, ProcessedItem, ProjectorConfig, Shape
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.config.slot_names import FOUNDATION, encoder_slot, projector_slot
from loongforge_core.errors import LoongForgeError
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance.files import opened_examples
from loongforge_core.testing.conformance.neighbours import DECODER, ENCODER, MODALITY, NEIGHBOURS, PROJECTOR, WIDTH

__all__ = ["NotApplicable", "Subject", "fresh"]

GRIDS: Sequence[Shape] = ((4, 6), (7,), (2, 4, 4), (5, 3), (12,), (2, 2), (1, 8, 4), (3,))
"""How features may lie in front of a projector, which takes some of these."""

TRAIN = {"lr": 1e-2, "steps": 3, "lr_warmup_steps": 1, "adam_eps": 1e-5, "global_batch_size": 4, "micro_batch_size": 1}
"""A gradient that is nothing but rounding, such as a key bias's, would make a step of Adam with its usual epsilon."""

NUM_LEVELS = 2
NUM_EXAMPLES = 8
FEW = 4
"""Items are enough for most checks."""


class NotApplicable(Exception):
    """Why a check cannot be made."""


@dataclass(frozen=True)
class Subject:
    """The component, light parts first; everything is made when it is asked for."""

    spec: ComponentSpec
    registry: Registry
    folder: Path
    """Where example files are written."""

    @cached_property
    def config_class(self) -> Any:
        return self.registry.load(self.spec, "config")

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """What items it is tried with: an encoder's own, of which its settings may leave some out."""
        if self.spec.kind != "encoder":
            return (MODALITY,)
        try:
            return tuple(self.config_class(**self.config_class.tiny).encodes) or self.spec.modalities
        except ValidationError:  # `specification` says what is wrong
            return self.spec.modalities

    @property
    def modality(self) -> str:
        """The one that it is tried with where one is enough."""
        return self.modalities[0]

    @property
    def slot(self) -> str:
        names = {"encoder": encoder_slot(self.modality), "projector": projector_slot(self.modality), "backbone": FOUNDATION}
        return names[self.spec.kind]

    @property
    def config(self) -> Any:
        return self.composition.slots[self.slot].config

    @cached_property
    def neighbourhood(self) -> Registry:
        """The component and its neighbours, whatever else is installed."""
        registry = Registry()
        for spec in (*NEIGHBOURS, self.spec):
            registry.register(spec)
        return registry

    @cached_property
    def composition(self) -> Composition:
        """Raises NotApplicable where there is none."""
        try:
            return self.compose()
        except LoongForgeError as error:
            raise NotApplicable("it cannot be put into a composition: see `specification`") from error

    def compose(self) -> Composition:
        """Raises LoongForgeError with all that is wrong."""
        registry = self.neighbourhood
        errors: list[LoongForgeError] = []
        for grid in GRIDS if self.spec.kind == "projector" else GRIDS[:1]:
            try:
                found = composition_from({"model": self.sections(grid, levels=0), "train": TRAIN}, registry)
                levels = self.levels_taken(found)
                return composition_from({"model": self.sections(grid, levels), "train": TRAIN}, registry)
            except LoongForgeError as error:
                errors.append(error)
        raise errors[0]

    def sections(self, grid: Shape, levels: int) -> Mapping[str, Any]:
        """The model's, with this component among its neighbours."""
        own = {"type": self.spec.name, **self.config_class.tiny}
        others = self.modalities[1:]
        encoder = {"type": ENCODER.name, "grid": list(grid), "levels": levels}
        sections = {
            encoder_slot(self.modality): encoder,
            projector_slot(self.modality): {"type": PROJECTOR.name},
            FOUNDATION: DECODER,
        }
        return {**sections, self.slot: {**own, "also_encodes": list(others)} if others else own}

    def levels_taken(self, composition: Composition) -> int:
        config = composition.slots[self.slot].config
        if isinstance(config, ProjectorConfig):
            return NUM_LEVELS if config.takes_levels else 0
        if isinstance(config, BackboneConfig):
            return min(NUM_LEVELS, config.num_layers) if config.takes_levels else 0
        return 0

    # ---- items

    @cached_property
    def opened(self) -> Mapping[str, Sequence[tuple[Path, ProcessedItem]]]:
        """Example files of every modality and what the processor makes of them."""
        processor_class = self.registry.load(self.spec, "processor")
        folder = self.folder
        return {
            modality: opened_examples(processor_class(self.config, modality), folder / modality, NUM_EXAMPLES)
            for modality in self.modalities
        }

    def items(self, modality: str) -> Sequence[ProcessedItem]:
        """A few of unequal sizes where sizes vary. Raises NotApplicable where there are none."""
        return self.all_items(modality)[:FEW]

    def all_items(self, modality: str) -> Sequence[ProcessedItem]:
        """More sizes. Raises NotApplicable where there are none."""
        if self.spec.kind != "encoder":
            return self.things
        if not self.spec.processor:
            raise NotApplicable("it has no processor, so there are no items: see `processor`")
        found = [item for _, item in self.opened[modality]]
        if not found:
            raise NotApplicable(f"no items of {modality} to try it with: see `processor`")
        return found

    @cached_property
    def things(self) -> Sequence[ProcessedItem]:
        """What the judge's own encoder takes, or its features, in grids that the projector takes."""
        random = np.random.default_rng(0)
        config = self.composition.slots[projector_slot(MODALITY)].config
        assert isinstance(config, ProjectorConfig)
        found = [thing(grid, random, config.num_levels) for grid in GRIDS if takes(config, grid)]
        return [*found, thing(found[0].size, random, config.num_levels)]


def takes(config: ProjectorConfig, grid: Shape) -> bool:
    try:
        config.token_grid(grid)
    except ValueError:
        return False
    return True


def thing(grid: Shape, random: np.random.Generator, levels: int) -> ProcessedItem:
    rows = math.prod(grid)
    names = ["values", *(f"level {index}" for index in range(levels))]
    return ProcessedItem({name: random.normal(size=(rows, WIDTH)).astype(np.float32) for name in names}, grid)


def fresh(subject: Subject, name: str) -> Path:
    """A folder that is not there yet, under the subject's own."""
    number = sum(1 for _ in subject.folder.glob(f"{name}*"))
    return subject.folder / f"{name}{number}"
