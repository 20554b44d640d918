"""The `model:` section: which component fills each slot, and whether neighbours fit."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loongforge_core.component import SLOT_KEYS, BackboneConfig, ComponentConfig, ComponentSpec, EncoderConfig, Kind, ProjectorConfig
from loongforge_core.config.composition import FOUNDATION, Slot, encoder_slot, projector_slot
from loongforge_core.config.published import translated
from loongforge_core.config.sentences import Findings, validated
from loongforge_core.config.settings import Backend, SlotSettings
from loongforge_core.errors import PluginError, did_you_mean
from loongforge_core.registry.registry import Registry

__all__ = ["check_slots", "missing_backend", "slot_kind", "slot_modality"]

logger = logging.getLogger(__name__)

STAND_IN = 1
"""A width that nobody knows because the neighbour is wrong itself; errors that it causes are not shown."""


@dataclass(frozen=True)
class _Draft:
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


def slot_modality(name: str) -> str:
    """Of an encoder's or projector's slot; empty for the foundation."""
    return name.rpartition("_")[0] if name != FOUNDATION else ""


def slot_kind(name: str) -> Kind | None:
    """What fills a slot of this name; None where no slot is called so."""
    if name == FOUNDATION:
        return "backbone"
    for kind in ("encoder", "projector"):
        if name.endswith(f"_{kind}") and slot_modality(name):
            return kind
    return None


def check_slots(sections: Mapping[str, Any], registry: Registry, findings: Findings) -> dict[str, Slot]:
    """The slots that are right, encoders, projectors, then the foundation; what is wrong is noted."""
    drafts: dict[str, _Draft] = {}
    for name in sorted(sections, key=_order):
        if (draft := _draft(name, sections[name], registry, findings)) is not None:
            drafts[name] = draft
    slots: dict[str, Slot] = {}
    for draft in drafts.values():
        if draft.spec.kind != "projector":
            _fill(slots, draft, validated(draft.config_class, draft.written, draft.key, findings, also_valid=SLOT_KEYS))
    for draft in drafts.values():
        if draft.spec.kind == "projector":
            _fill(slots, draft, _projector_config(draft, sections, slots, findings))
    _check_encoded_once(sections, slots, findings)
    for name in sections:
        _check_neighbours(name, sections, slots, registry, findings)
    return {name: slots[name] for name in sorted(slots, key=_order)}


def _order(name: str) -> tuple[int, str]:
    return (("encoder", "projector", "backbone").index(slot_kind(name) or "backbone"), name)


def _fill(slots: dict[str, Slot], draft: _Draft, config: ComponentConfig | None) -> None:
    if config is not None:
        slots[draft.name] = Slot(draft.name, draft.spec, config, draft.settings)


def _draft(name: str, section: Any, registry: Registry, findings: Findings) -> _Draft | None:
    key, kind = f"model.{name}", slot_kind(name)
    assert kind is not None
    if not isinstance(section, Mapping):
        findings.add(key, f"got {section!r}, expected a mapping with `type`, the name of {_installed(kind, registry)}")
        return None
    if "type" not in section:
        findings.add(key, f"has no `type`, the name of {_installed(kind, registry)}")
        return None
    settings = validated(SlotSettings, {field: section[field] for field in section if field in SLOT_KEYS}, key, findings)
    if not isinstance(section["type"], str):
        return None
    try:
        spec = registry.component(kind, section["type"])
        config_class = registry.load(spec, "config")
    except PluginError as error:
        findings.add(f"{key}.type", str(error), cause=error.__cause__)
        return None
    settings = settings or SlotSettings(type=spec.name)
    for field, modality in (("type", slot_modality(name)), *(("also_encodes", other) for other in settings.also_encodes)):
        if modality and spec.modalities and modality not in spec.modalities:
            findings.add(f"{key}.{field}", f"{kind} {spec.name!r} takes {', '.join(spec.modalities)}, not {modality}")
    written = translated({field: value for field, value in section.items() if field not in SLOT_KEYS}, config_class, key, findings)
    wish = written.pop("backend", None)
    return _Draft(name, spec, _with_wish(settings, wish, key) if wish else settings, config_class, written)


def _with_wish(settings: SlotSettings, backend: Backend, key: str) -> SlotSettings:
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


def _installed(kind: Kind, registry: Registry) -> str:
    names = sorted({published.spec.name for published in registry.components(kind)})
    return f"an installed {kind}: {', '.join(names) or 'none is installed'}"


def _projector_config(draft: _Draft, sections: Mapping[str, Any], slots: Mapping[str, Slot], findings: Findings) -> ComponentConfig | None:
    """Validated with the widths and levels of its neighbours, which are inferred where they are not written."""
    widths: dict[str, int] = {}
    unknown = False
    encoder_name = encoder_slot(slot_modality(draft.name))
    for field, name in (("input_size", encoder_name), ("hidden_size", FOUNDATION)):
        neighbour = slots.get(name)
        if neighbour is not None:
            widths[field] = _width(neighbour.config)
            _check_written(draft, field, neighbour, findings)
            if isinstance(neighbour.config, EncoderConfig):
                widths["num_levels"] = neighbour.config.num_levels
                _check_written_levels(draft, neighbour, findings)
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


def _width(config: ComponentConfig) -> int:
    if isinstance(config, EncoderConfig):
        return config.feature_size
    assert isinstance(config, BackboneConfig)
    return config.hidden_size


def _check_written(draft: _Draft, field: str, neighbour: Slot, findings: Findings) -> None:
    width = _width(neighbour.config)
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


def _check_written_levels(draft: _Draft, encoder: Slot, findings: Findings) -> None:
    assert isinstance(encoder.config, EncoderConfig)
    emitted = encoder.config.num_levels
    if (written := draft.written.get("num_levels", emitted)) != emitted:
        said = f"{written} is written, but {encoder.name} ({encoder.spec.name}) emits {emitted}"
        findings.add(f"{draft.key}.num_levels", f"levels do not fit: {said}; write {emitted}, or leave it out to have it inferred")


def _check_encoded_once(sections: Mapping[str, Any], slots: Mapping[str, Slot], findings: Findings) -> None:
    """Every modality has one encoder, whether a slot is named after it or takes it too."""
    taken = {slot_modality(name): name for name in sections if slot_kind(name) == "encoder"}
    for name, slot in slots.items():
        for modality in slot.settings.also_encodes:
            if slot_kind(name) != "encoder":
                findings.add(f"model.{name}.also_encodes", f"only an encoder encodes; write it into {encoder_slot(slot_modality(name))}")
            elif modality in taken:
                findings.add(f"model.{name}.also_encodes", f"{modality} is encoded by {taken[modality]} already")
            taken.setdefault(modality, name)


def _check_neighbours(name: str, sections: Mapping[str, Any], slots: Mapping[str, Slot], registry: Registry, findings: Findings) -> None:
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
    if foundation is not None and projector_slot(modality) not in sections:
        _check_direct(encoder, foundation, registry, findings)
    _check_levels(encoder, projector, foundation, findings)
    _check_tokens(encoder, projector, findings)


def _check_direct(encoder: Slot, foundation: Slot, registry: Registry, findings: Findings) -> None:
    given, taken = _width(encoder.config), _width(foundation.config)
    if given != taken:
        needed = projector_slot(slot_modality(encoder.name))
        where = findings.provenance.where(f"model.{FOUNDATION}.hidden_size")
        findings.add(
            f"model.{encoder.name}",
            f"widths do not fit: {encoder.spec.name} emits features {given} wide, but {FOUNDATION} ({foundation.spec.name}) takes "
            f"embeddings {taken} wide{f' ({where})' if where else ''}, and {given} != {taken}; "
            f"fill {needed} with {_installed('projector', registry)}",
        )


def _check_levels(encoder: Slot, projector: Slot | None, foundation: Slot | None, findings: Findings) -> None:
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


def _check_tokens(encoder: Slot, projector: Slot | None, findings: Findings) -> None:
    """Whether the projector takes features that lie as this encoder's do, where that is known beforehand."""
    assert isinstance(encoder.config, EncoderConfig)
    size = encoder.config.typical_item_size
    if size is None or projector is None:
        return
    assert isinstance(projector.config, ProjectorConfig)
    try:
        grid = encoder.config.token_grid(size)
    except ValueError as error:
        findings.add(f"model.{encoder.name}", f"cannot take an item of its own size, {_times(size)}: {error}")
        return
    try:
        projector.config.token_grid(grid)
    except ValueError as error:
        findings.add(f"model.{projector.name}", f"{encoder.name} ({encoder.spec.name}) gives features that lie {_times(grid)}: {error}")


def _times(grid: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in grid)
