"""Whether what fills the slots fits together: one encoder for every modality, and between neighbours widths, levels and grids of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_core.component import BackboneConfig, ComponentConfig, EncoderConfig, Kind, ProjectorConfig
from loongforge_core.config.composition import Slot
from loongforge_core.config.sentences import Findings
from loongforge_core.config.slot_names import FOUNDATION, encoder_slot, projector_slot, slot_kind, slot_modality
from loongforge_core.errors import did_you_mean
from loongforge_core.registry.registry import Registry

__all__ = ["check_neighbours", "installed", "width_between"]


def check_neighbours(sections: Mapping[str, Any], slots: Mapping[str, Slot], registry: Registry, findings: Findings) -> None:
    """Notes what does not fit. `sections` has all slots, `slots` those that are right by themselves."""
    check_encoded_once(sections, slots, findings)
    check_encodes(slots, findings)
    for name in sections:
        check_slot(name, sections, slots, registry, findings)


def width_between(config: ComponentConfig) -> int:
    """Of an encoder's features, or a language model's embeddings."""
    if isinstance(config, EncoderConfig):
        return config.feature_size
    assert isinstance(config, BackboneConfig)
    return config.hidden_size


def installed(kind: Kind, registry: Registry) -> str:
    """What there is to fill a slot with."""
    names = sorted({published.spec.name for published in registry.components(kind)})
    return f"an installed {kind}: {', '.join(names) or 'none is installed'}"


def check_encoded_once(sections: Mapping[str, Any], slots: Mapping[str, Slot], findings: Findings) -> None:
    """Every modality has one encoder, whether a slot is named after it or takes it too."""
    taken = {slot_modality(name): name for name in sections if slot_kind(name) == "encoder"}
    for name, slot in slots.items():
        for modality in slot.settings.also_encodes:
            if slot_kind(name) != "encoder":
                findings.add(f"model.{name}.also_encodes", f"only an encoder encodes; write it into {encoder_slot(slot_modality(name))}")
            elif modality in taken:
                way_out = "leave it out here" if taken[modality] == name else f"leave it out here, or take {taken[modality]} out"
                findings.add(f"model.{name}.also_encodes", f"{modality} is encoded by {taken[modality]} already; {way_out}")
            taken.setdefault(modality, name)


def check_encodes(slots: Mapping[str, Slot], findings: Findings) -> None:
    """Of a component that takes several modalities, whether its settings are of an encoder for those that it is to encode."""
    for name, slot in slots.items():
        encodes = slot.config.encodes if isinstance(slot.config, EncoderConfig) else ()
        for modality in (slot_modality(name), *slot.settings.also_encodes) if encodes else ():
            if modality not in encodes and modality in slot.spec.modalities:
                findings.add(f"model.{name}", f"with these settings {slot.spec.name} encodes {', '.join(encodes)}, not {modality}")


def check_slot(name: str, sections: Mapping[str, Any], slots: Mapping[str, Slot], registry: Registry, findings: Findings) -> None:
    modality = slot_modality(name)
    kind = slot_kind(name)
    if kind == "projector" and encoder_slot(modality) not in sections:
        encoders = [encoder for encoder in sections if slot_kind(encoder) == "encoder"]
        findings.add(f"model.{name}", f"there is no {encoder_slot(modality)} for it{did_you_mean(encoder_slot(modality), encoders)}")
    if kind != "encoder" or name not in slots:
        return
    encoder = slots[name]
    assert isinstance(encoder.config, EncoderConfig)
    projector, foundation = slots.get(projector_slot(modality)), slots.get(FOUNDATION)
    is_taken = not encoder.spec.modalities or modality in encoder.spec.modalities  # if not, the slot's own name is wrong
    if foundation is not None and projector_slot(modality) not in sections and is_taken:
        check_direct(encoder, foundation, registry, findings)
    check_levels(encoder, projector, foundation, findings)
    check_tokens(encoder, projector, findings)


def check_direct(encoder: Slot, foundation: Slot, registry: Registry, findings: Findings) -> None:
    given, taken = width_between(encoder.config), width_between(foundation.config)
    if given != taken:
        needed = projector_slot(slot_modality(encoder.name))
        where = findings.provenance.where(f"model.{FOUNDATION}.hidden_size")
        findings.add(
            f"model.{encoder.name}",
            f"widths do not fit: {encoder.spec.name} emits features {given} wide, but {FOUNDATION} ({foundation.spec.name}) takes "
            f"embeddings {taken} wide{f' ({where})' if where else ''}, and {given} != {taken}; "
            f"fill {needed} with {installed('projector', registry)}",
        )


def check_levels(encoder: Slot, projector: Slot | None, foundation: Slot | None, findings: Findings) -> None:
    assert isinstance(encoder.config, EncoderConfig)
    levels = encoder.config.num_levels
    if not levels:
        return
    for slot in (projector, foundation):
        if slot is None:
            continue
        assert isinstance(slot.config, ProjectorConfig | BackboneConfig)
        if not slot.config.takes_levels:
            findings.add(f"model.{slot.name}.type", f"takes no levels, and {encoder.name} ({encoder.spec.name}) emits {levels}")
        elif isinstance(slot.config, BackboneConfig) and levels > slot.config.num_layers:
            findings.add(
                f"model.{slot.name}.num_layers",
                f"{encoder.name} ({encoder.spec.name}) emits {levels} levels, one after each of the first {levels} layers, "
                f"but there are {slot.config.num_layers}",
            )


def check_tokens(encoder: Slot, projector: Slot | None, findings: Findings) -> None:
    """Whether the projector takes features that lie as this encoder's do, where that is known beforehand."""
    assert isinstance(encoder.config, EncoderConfig)
    size = encoder.config.typical_item_size
    if size is None or projector is None:
        return
    assert isinstance(projector.config, ProjectorConfig)
    try:
        grid = encoder.config.token_grid(size)
    except ValueError as error:
        findings.add(f"model.{encoder.name}", f"cannot take an item of its own size, {times(size)}: {error}")
        return
    try:
        projector.config.token_grid(grid)
    except ValueError as error:
        findings.add(f"model.{projector.name}", f"does not fit {encoder.name} ({encoder.spec.name}): {error}")


def times(grid: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in grid)
