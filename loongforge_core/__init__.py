"""LoongForge: snap-together multimodal models on Megatron-Core.

The names below are the public ones. They are loaded when they are first used, so importing `loongforge_core` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loongforge_core.component import (
        Augmentation,
        BackboneConfig,
        ComponentSpec,
        DatasetSpec,
        EncoderConfig,
        Initial,
        InitialValues,
        ItemMarkup,
        ItemRun,
        ItemSpan,
        ProcessedItem,
        Processor,
        ProjectorConfig,
        RecipeConfig,
        Shape,
        indivisible,
    )
    from loongforge_core.config.check import load_composition
    from loongforge_core.config.composition import Composition
    from loongforge_core.errors import DataError, LoongForgeError
    from loongforge_core.layers.interfaces import Backbone, BuildContext, Encoder, Features, Items, Projector, Recipe
    from loongforge_core.model.auto import AutoModel
    from loongforge_core.model.combination import OmniCombinationModel
    from loongforge_core.model.encoder import OmniEncoderModel
    from loongforge_core.model.provider import OmniModelProvider
    from loongforge_core.registry.hooks import hookimpl
    from loongforge_core.registry.registry import Registry

__version__ = "0.1.0"

_HOME = {
    "Augmentation": "component",
    "AutoModel": "model.auto",
    "Backbone": "layers.interfaces",
    "BackboneConfig": "component",
    "BuildContext": "layers.interfaces",
    "ComponentSpec": "component",
    "Composition": "config.composition",
    "DataError": "errors",
    "DatasetSpec": "component",
    "Encoder": "layers.interfaces",
    "EncoderConfig": "component",
    "Features": "layers.interfaces",
    "Initial": "component",
    "InitialValues": "component",
    "ItemMarkup": "component",
    "ItemRun": "component",
    "ItemSpan": "component",
    "Items": "layers.interfaces",
    "LoongForgeError": "errors",
    "OmniCombinationModel": "model.combination",
    "OmniEncoderModel": "model.encoder",
    "OmniModelProvider": "model.provider",
    "ProcessedItem": "component",
    "Processor": "component",
    "Projector": "layers.interfaces",
    "ProjectorConfig": "component",
    "Recipe": "layers.interfaces",
    "RecipeConfig": "component",
    "Registry": "registry.registry",
    "Shape": "component",
    "hookimpl": "registry.hooks",
    "indivisible": "component",
    "load_composition": "config.check",
}

__all__ = [
    "Augmentation",
    "AutoModel",
    "Backbone",
    "BackboneConfig",
    "BuildContext",
    "ComponentSpec",
    "Composition",
    "DataError",
    "DatasetSpec",
    "Encoder",
    "EncoderConfig",
    "Features",
    "Initial",
    "InitialValues",
    "ItemMarkup",
    "ItemRun",
    "ItemSpan",
    "Items",
    "LoongForgeError",
    "OmniCombinationModel",
    "OmniEncoderModel",
    "OmniModelProvider",
    "ProcessedItem",
    "Processor",
    "Projector",
    "ProjectorConfig",
    "Recipe",
    "RecipeConfig",
    "Registry",
    "Shape",
    "hookimpl",
    "indivisible",
    "load_composition",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
