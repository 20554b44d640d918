"""The `model:` section: which component fills each slot, with its config."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loongforge_core.component import SLOT_KEYS, Backend, ComponentConfig, ComponentSpec, EncoderConfig
from loongforge_core.config.composition import Slot
from loongforge_core.config.library import published_files
from loongforge_core.config.neighbours import check_neighbours, installed, width_between
from loongforge_core.config.published import translated
from loongforge_core.config.sentences import Findings, validated
from loongforge_core.config.settings import SlotSettings
from loongforge_core.config.slot_names import FOUNDATION, encoder_slot, slot_kind, slot_modality, slot_order
from loongforge_core.errors import PluginError, near_match
from loongforge_core.registry.registry import Registry

__all__ = ["check_slots", "missing_backend"]

logger = logging.getLogger(__name__)

STAND_IN = 1
"""A width that nobody knows because the neighbour is wrong itself; errors that it causes are not shown."""


@dataclass(frozen=True)
class Draft:
    """A slot whose component is known and whose config is not validated yet."""

    name: str
    spec: ComponentSpec
    settings: SlotSettings
    config_class: type[Any]
    written: Mapping[str, Any]
    """The slot without core's own keys."""

    @property
    def key(self) -> str:
        return f"model.{self.name}"

    def __str__(self) -> str:
        return f"{self.name} ({self.spec.name})"


def check_slots(sections: Mapping[str, Any], registry: Registry, findings: Findings) -> dict[str, Slot]:
    """The slots that are right, encoders, projectors, then the foundation; what is wrong is noted."""
    drafts: dict[str, Draft] = {}
    for name in sorted(sections, key=slot_order):
        if (draft := draft_of(name, sections[name], registry, findings)) is not None:
            drafts[name] = draft
    slots: dict[str, Slot] = {}
    for draft in drafts.values():
        if draft.spec.kind != "projector":
            fill(slots, draft, validated(draft.config_class, draft.written, draft.key, findings, also_valid=SLOT_KEYS))
    for draft in drafts.values():
        if draft.spec.kind == "projector":
            fill(slots, draft, projector_config(draft, sections, slots, findings))
    check_neighbours(sections, slots, registry, findings)
    return {name: slots[name] for name in sorted(slots, key=slot_order)}


def fill(slots: dict[str, Slot], draft: Draft, config: ComponentConfig | None) -> None:
    if config is not None:
        slots[draft.name] = Slot(draft.name, draft.spec, config, draft.settings)


def draft_of(name: str, section: Any, registry: Registry, findings: Findings) -> Draft | None:
    key, kind = f"model.{name}", slot_kind(name)
    assert kind is not None
    if not isinstance(section, Mapping):
        meant = what_was_meant(name, section, registry)
        findings.add(key, f"got {section!r}, expected a mapping with `type`, the name of {installed(kind, registry)}{meant}")
        return None
    if "type" not in section:
        findings.add(key, f"has no `type`, the name of {installed(kind, registry)}")
        return None
    settings = validated(SlotSettings, {field: section[field] for field in section if field in SLOT_KEYS}, key, findings)
    if not isinstance(section["type"], str):
        return None
    try:
        spec = registry.component(kind, section["type"])
        config_class = registry.load(spec, "config")
    except PluginError as error:
        findings.add(f"{key}.type", f"{error}{what_was_meant(name, section['type'], registry)}", cause=error.__cause__)
        return None
    settings = settings or SlotSettings(type=spec.name)
    check_modalities(name, spec, settings, findings)
    written = translated({field: value for field, value in section.items() if field not in SLOT_KEYS}, config_class, key, findings)
    if wish := written.pop("backend", None):
        settings = with_wish(settings, wish, key)
    if settings.backend not in (None, *config_class.backends):
        known = ", ".join(config_class.backends)
        findings.add(f"{key}.backend", f"got {settings.backend}, but {spec.kind} {spec.name!r} is built of {known} only")
    return Draft(name, spec, settings, config_class, written)


def check_modalities(name: str, spec: ComponentSpec, settings: SlotSettings, findings: Findings) -> None:
    """Whether the component takes items of the modality that its slot is named after, and of the others that it is to encode."""
    if not spec.modalities:
        return
    taken = f"{spec.kind} {spec.name!r} takes {', '.join(spec.modalities)}"
    if (own := slot_modality(name)) and own not in spec.modalities:
        findings.add(f"model.{name}.type", f"{taken}, not {own}{near_match(own, spec.modalities)}")
    for index, modality in enumerate(settings.also_encodes):
        if modality not in spec.modalities:
            findings.add(f"model.{name}.also_encodes.{index}", f"{taken}, not {modality}{near_match(modality, spec.modalities)}")


def what_was_meant(name: str, given: object, registry: Registry) -> str:
    """Where a published size, or a component's name, stands in the place of a mapping or of a component's name: how it is written."""
    if not isinstance(given, str):
        return ""
    for file in published_files(registry.config_folders):
        group, _, size = file.name.rpartition("/")
        if size == given and group:
            return f"; {given} is a published size: write `- {group}@model.{name}: {size}` under `defaults`"
    known = any(published.spec.name == given for published in registry.components(slot_kind(name)))
    return f"; write {{type: {given}}}" if known else ""


def with_wish(settings: SlotSettings, backend: Backend, key: str) -> SlotSettings:
    """A backend that an original form asks for, where the user has set none and it is installed."""
    if settings.backend is not None:
        return settings
    if why := missing_backend(backend):
        logger.warning("%s: the original design's form asks for %s, but %s: torch is used", key, backend, why)
        return settings
    return settings.model_copy(update={"backend": backend})


def missing_backend(backend: str) -> str:
    """Why no model can be built here with it; empty where one can."""
    missing = backend == "transformer_engine" and importlib.util.find_spec(backend) is None
    return f"{backend} is not installed here" if missing else ""


def projector_config(draft: Draft, sections: Mapping[str, Any], slots: Mapping[str, Slot], findings: Findings) -> ComponentConfig | None:
    """Validated with the widths and levels of its neighbours, which are inferred where they are not written."""
    widths: dict[str, int] = {}
    unknown = False
    encoder_name = encoder_slot(slot_modality(draft.name))
    for field, name in (("input_size", encoder_name), ("hidden_size", FOUNDATION)):
        neighbour = slots.get(name)
        if neighbour is not None:
            widths[field] = width_between(neighbour.config)
            check_written(draft, field, neighbour, findings)
            if isinstance(neighbour.config, EncoderConfig):
                widths["num_levels"] = neighbour.config.num_levels
                check_written_levels(draft, neighbour, findings)
        elif name in sections:
            widths[field], unknown = STAND_IN, True
        elif field not in draft.written:
            widths[field], unknown = STAND_IN, True
            if name == FOUNDATION:  # a missing encoder is an error of its own
                findings.add(draft.key, f"`{field}` is not written, and without model.{name} it cannot be inferred")
    if not unknown:
        return validated(draft.config_class, {**widths, **draft.written}, draft.key, findings, also_valid=SLOT_KEYS)
    trial = Findings(findings.provenance)
    validated(draft.config_class, {**widths, **draft.written}, draft.key, trial, also_valid=SLOT_KEYS)
    findings.issues += [issue for issue in trial.issues if issue.key != draft.key]
    return None


def check_written(draft: Draft, field: str, neighbour: Slot, findings: Findings) -> None:
    width = width_between(neighbour.config)
    written = draft.written.get(field, width)
    if written == width:
        return
    says = "emits features" if field == "input_size" else "takes embeddings"
    where = findings.provenance.where(f"model.{neighbour.name}.hidden_size")
    findings.add(
        f"{draft.key}.{field}",
        f"widths do not fit: {written} is written, but {neighbour.name} ({neighbour.spec.name}) {says} {width} wide"
        f"{f' ({where})' if where else ''}, and {written} != {width}; write {width}, or leave it out to have it inferred",
    )


def check_written_levels(draft: Draft, encoder: Slot, findings: Findings) -> None:
    assert isinstance(encoder.config, EncoderConfig)
    emitted = encoder.config.num_levels
    if (written := draft.written.get("num_levels", emitted)) != emitted:
        said = f"{written} is written, but {encoder.name} ({encoder.spec.name}) emits {emitted}"
        findings.add(f"{draft.key}.num_levels", f"levels do not fit: {said}; write {emitted}, or leave it out to have it inferred")
