"""Every encoder with every projector and every backbone of this repository, tiny: which fit together, and what they say where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loongforge_core.component import ComponentSpec
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import ConfigError
from loongforge_core.registry import Registry

PLUGINS = ("loongforge_vit", "loongforge_audio", "loongforge_projectors", "loongforge_llm", "loongforge_hf")
"""Whose components are tried; a third party's that happen to be installed are not."""


def tiny_sizes(kind: Any) -> dict[str, dict[str, Any]]:
    """What each component's config class says of a tiny size; plugin by plugin."""
    registry = Registry.discover()
    specs = [published.spec for published in registry.components(kind) if package_of(published.spec) in PLUGINS]
    return {spec.name: dict(registry.load(spec, "config").tiny) for spec in sorted(specs, key=lambda spec: PLUGINS.index(package_of(spec)))}


def package_of(spec: ComponentSpec) -> str:
    return spec.config.split(".")[0]


TINY = {kind: tiny_sizes(kind) for kind in ("encoder", "projector", "backbone")}


@dataclass(frozen=True)
class Triple:
    encoder: str
    projector: str
    backbone: str

    def __str__(self) -> str:
        return f"{self.encoder}-{self.projector}-{self.backbone}"


def triples() -> list[Triple]:
    """All of them, whether they fit or not."""
    return [
        Triple(encoder, projector, backbone)
        for encoder in TINY["encoder"]
        for projector in TINY["projector"]
        for backbone in TINY["backbone"]
    ]


def pairs(registry: Registry) -> list[Triple]:
    """Every encoder and every backbone at least once, with whichever projectors fit, each of them somewhere."""
    encoders, backbones = list(TINY["encoder"]), list(reversed(TINY["backbone"]))
    chosen: list[Triple] = []
    for turn in range(max(len(encoders), len(backbones))):
        encoder, backbone = encoders[turn % len(encoders)], backbones[turn % len(backbones)]
        fitting = [triple for name in TINY["projector"] if not reasons(triple := Triple(encoder, name, backbone), registry)]
        chosen.append(min(fitting, key=lambda triple: sum(triple.projector == other.projector for other in chosen)))
    return chosen


def modality_of(encoder: str, registry: Registry) -> str:
    return registry.component("encoder", encoder).modalities[0]


def composition_of(triple: Triple, registry: Registry, **run: Any) -> Composition:
    """Raises ConfigError with the reason where the three do not fit."""
    modality = modality_of(triple.encoder, registry)
    model = {
        f"{modality}_encoder": {"type": triple.encoder, **TINY["encoder"][triple.encoder]},
        f"{modality}_projector": {"type": triple.projector, **TINY["projector"][triple.projector]},
        "foundation": {"type": triple.backbone, **TINY["backbone"][triple.backbone]},
    }
    return composition_from({"model": model, **run}, registry)


def reasons(triple: Triple, registry: Registry) -> Sequence[str]:
    """Why the three do not fit; empty where they do."""
    try:
        composition_of(triple, registry)
    except ConfigError as error:
        return [f"{issue.key}: {issue.message}" for issue in error.issues]
    return ()
