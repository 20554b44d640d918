"""The recipe that `model_type` selects, with the keys of `model:` that no slot takes, and whether it fits the slots."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from loongforge_core.component import SLOT_KEYS, BackboneConfig, ComponentSpec, RecipeConfig
from loongforge_core.config.composition import Slot
from loongforge_core.config.published import translated
from loongforge_core.config.sentences import Findings, validated
from loongforge_core.config.slot_names import FOUNDATION, encoder_slot, projector_slot, slot_kind, slot_modality
from loongforge_core.errors import PluginError, did_you_mean
from loongforge_core.registry.registry import Registry

__all__ = ["check_positions", "check_recipe", "split_model"]


def split_model(model: Any, registry: Registry, findings: Findings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The slots, and the recipe's keys, some of which are called like slots in the original design."""
    if not isinstance(model, Mapping):
        given = "there is no model" if model is None else f"got {model!r}"
        findings.add("model", f"{given}: expected a mapping of slots, such as {FOUNDATION}: {{type: NAME}}")
        return {}, {}
    forms = original_forms(model.get("model_type"), registry)
    sections = {key: value for key, value in model.items() if slot_kind(key) and key not in forms}
    if not sections:
        findings.add("model", f"no slot is filled: expected {FOUNDATION}, <modality>_encoder or <modality>_projector")
    return sections, {key: value for key, value in model.items() if key not in sections}


def original_forms(model_type: Any, registry: Registry) -> Collection[str]:
    """Keys of the original design that the recipe knows; what is wrong with it is noted where it is made."""
    if not isinstance(model_type, str):
        return ()
    try:
        forms: Collection[str] = registry.load(registry.component("recipe", model_type), "config").original_forms
    except PluginError:
        return ()
    return forms


def check_recipe(
    rest: Mapping[str, Any], sections: Mapping[str, Any], registry: Registry, findings: Findings
) -> tuple[ComponentSpec, RecipeConfig] | None:
    """The recipe that `model_type` selects, with the remaining keys as its config."""
    name = rest.get("model_type", "default")
    if not isinstance(name, str):
        findings.add("model.model_type", f"got {name!r}, expected the name of a recipe")
        return None
    try:
        spec = registry.component("recipe", name)
        config_class = registry.load(spec, "config")
    except PluginError as error:
        findings.add("model.model_type", str(error), cause=error.__cause__)
        return None
    fields = translated({key: value for key, value in rest.items() if key != "model_type"}, config_class, "model", findings)
    for key in [key for key, value in fields.items() if isinstance(value, Mapping) and "type" in value]:
        near = did_you_mean(key, slot_names(registry))
        findings.add(f"model.{key}", f"no slot has this name; slots are {FOUNDATION}, <modality>_encoder, <modality>_projector{near}")
        del fields[key]
    slot_keys = {f"{slot}.{key}" for slot in sections for key in SLOT_KEYS}
    also_valid = {"model_type", *slot_names(registry), *slot_keys}
    config: RecipeConfig | None = validated(config_class, fields, "model", findings, also_valid=also_valid)
    if config is None:
        return None
    for slot, section in sections.items() if FOUNDATION in sections else ():
        if slot_kind(slot) == "encoder" and isinstance(section, Mapping):
            for modality in encoded(slot, section, registry):
                check_markup(slot, modality, spec, config, findings)
    return spec, config


def encoded(slot: str, section: Mapping[str, Any], registry: Registry) -> Iterator[str]:
    """The modalities whose items an encoder's slot is to take; those that its encoder does not take are wrong for that reason already."""
    more = section.get("also_encodes")
    published = [each.spec for each in registry.components("encoder") if each.spec.name == section.get("type")]
    taken = published[0].modalities if published else ()
    for modality in (slot_modality(slot), *(more if isinstance(more, list) else ())):
        if isinstance(modality, str) and (not taken or modality in taken):
            yield modality


def check_positions(recipe: tuple[ComponentSpec, RecipeConfig] | None, slots: Mapping[str, Slot], findings: Findings) -> None:
    """The position ids that the recipe makes are those that the language model takes."""
    foundation = slots.get(FOUNDATION)
    if recipe is None or foundation is None or not isinstance(foundation.config, BackboneConfig):
        return
    made, taken = recipe[1].position_axes, foundation.config.position_axes
    if made != taken:
        hint = "; positions of three axes are its `mrope_section`" if "mrope_section" in type(foundation.config).model_fields else ""
        findings.add(
            "model.model_type",
            f"recipe {recipe[0].name!r} makes position ids of {made} axes, but {foundation.spec.name} in {FOUNDATION} takes {taken}{hint}",
        )


def check_markup(slot: str, modality: str, recipe: ComponentSpec, config: RecipeConfig, findings: Findings) -> None:
    try:
        config.markup(modality)
    except KeyError:
        known = f", only of {', '.join(recipe.modalities)}" if recipe.modalities else ""
        findings.add(
            f"model.{slot}",
            f"recipe {recipe.name!r} does not say how an item of modality {modality!r} is written{known}; "
            "without `model_type` an item of any modality is written by its name",
        )


def slot_names(registry: Registry) -> set[str]:
    modalities = {modality for published in registry.components("encoder") for modality in published.spec.modalities}
    return {FOUNDATION, *map(encoder_slot, modalities), *map(projector_slot, modalities)}
