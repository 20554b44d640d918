"""A tree of plain data -> a checked composition, or everything that is wrong with it at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from loongforge_core.component import BackboneConfig, ComponentSpec, RecipeConfig
from loongforge_core.config.composition import FOUNDATION, Composition, Slot, encoder_slot, projector_slot
from loongforge_core.config.layout_check import check_layout
from loongforge_core.config.layout_rules import Purpose
from loongforge_core.config.library import Library
from loongforge_core.config.paths import locate_run, locate_slots
from loongforge_core.config.provenance import Provenance
from loongforge_core.config.published import translated
from loongforge_core.config.sentences import Findings, validated
from loongforge_core.config.settings import EncoderLayout, RunSettings
from loongforge_core.config.slots import check_slots, missing_backend, slot_kind, slot_modality
from loongforge_core.errors import ConfigError, Issue, PluginError, did_you_mean
from loongforge_core.registry.registry import Registry

__all__ = ["composition_from", "layout_dependences", "load_composition", "missing_backends"]

logger = logging.getLogger(__name__)


def load_composition(
    config: str,
    overrides: Sequence[str] = (),
    *,
    registry: Registry,
    config_dirs: Sequence[Path] = (),
    world_size: int | None = 1,
    purpose: Purpose = "train",
) -> Composition:
    """The composition of a YAML file, or of a published name, with overrides in Hydra's syntax.

    Raises ConfigError with everything that is wrong. `world_size` is the number of processes of the run; None leaves the layout
    unchecked against it. Where the purpose is not to train, neither is the batch.
    """
    from loongforge_core.config.compose import compose_tree  # Hydra is slow to import

    composed = compose_tree(config, overrides, Library.of(config, registry.config_folders, config_dirs))
    return composition_from(
        composed.tree, registry, name=composed.name, provenance=composed.provenance, world_size=world_size, purpose=purpose
    )


def composition_from(
    tree: Mapping[str, Any],
    registry: Registry,
    *,
    name: str = "composition",
    provenance: Provenance | None = None,
    world_size: int | None = 1,
    purpose: Purpose = "train",
) -> Composition:
    """The composition of a tree of plain data, such as YAML gives. Raises ConfigError with everything that is wrong."""
    findings = Findings(provenance or Provenance())
    model = tree.get("model")
    sections, rest = _split(model, registry, findings)
    slots = check_slots(sections, registry, findings)
    recipe = _recipe(rest, sections, registry, findings)
    _check_positions(recipe, slots, findings)
    run = _run({key: value for key, value in tree.items() if key != "model"}, sections, slots, registry, findings)
    run = _check_run(run, sections, slots, registry, findings)
    resolved = {"model": _resolved_model(recipe, slots), **_resolved_run(run)} if recipe else {}
    check_layout(run, slots, world_size, findings, filled=sections, purpose=purpose)
    run, slots = locate_run(run, registry, findings), locate_slots(slots, registry, findings)
    if recipe is not None:
        composition = Composition(name=name, slots=slots, recipe=recipe[0], recipe_config=recipe[1], run=run, resolved=resolved)
        _check_length(composition, findings)
    if findings.issues or recipe is None:
        raise ConfigError(findings.issues) from findings.cause
    for broken in registry.broken:
        logger.warning("%s", broken)
    return composition


# ------------------------------------------------------------------------------------------------------- the model section


def _split(model: Any, registry: Registry, findings: Findings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The slots, and the recipe's keys, some of which are called like slots in the original design."""
    if not isinstance(model, Mapping):
        given = "there is no model" if model is None else f"got {model!r}"
        findings.add("model", f"{given}: expected a mapping of slots, such as {FOUNDATION}: {{type: NAME}}")
        return {}, {}
    forms = _original_forms(model.get("model_type"), registry)
    sections = {key: value for key, value in model.items() if slot_kind(key) and key not in forms}
    if not sections:
        findings.add("model", f"no slot is filled: expected {FOUNDATION}, <modality>_encoder or <modality>_projector")
    return sections, {key: value for key, value in model.items() if key not in sections}


def _original_forms(model_type: Any, registry: Registry) -> Collection[str]:
    """Keys of the original design that the recipe knows; what is wrong with it is noted where it is made."""
    if not isinstance(model_type, str):
        return ()
    try:
        forms: Collection[str] = registry.load(registry.component("recipe", model_type), "config").original_forms
    except PluginError:
        return ()
    return forms


def _recipe(
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
        near = did_you_mean(key, _slot_names(registry))
        findings.add(f"model.{key}", f"no slot has this name; slots are {FOUNDATION}, <modality>_encoder, <modality>_projector{near}")
        del fields[key]
    config: RecipeConfig | None = validated(config_class, fields, "model", findings, also_valid={"model_type", *_slot_names(registry)})
    if config is None:
        return None
    for slot, section in sections.items() if FOUNDATION in sections else ():
        if slot_kind(slot) == "encoder":
            more = section.get("also_encodes") if isinstance(section, Mapping) else None
            for modality in (slot_modality(slot), *(more if isinstance(more, list) else ())):
                _check_markup(slot, modality, name, config, findings)
    return spec, config


def _check_positions(recipe: tuple[ComponentSpec, RecipeConfig] | None, slots: Mapping[str, Slot], findings: Findings) -> None:
    """The position ids that the recipe makes are those that the language model takes."""
    foundation = slots.get(FOUNDATION)
    if recipe is None or foundation is None or not isinstance(foundation.config, BackboneConfig):
        return
    made, taken = recipe[1].position_axes, foundation.config.position_axes
    if made != taken:
        findings.add(
            "model.model_type",
            f"recipe {recipe[0].name!r} makes position ids of {made} axes, but {foundation.spec.name} in {FOUNDATION} takes {taken}",
        )


def _check_markup(slot: str, modality: str, name: str, config: RecipeConfig, findings: Findings) -> None:
    try:
        config.markup(modality)
    except KeyError:
        findings.add(f"model.{slot}", f"recipe {name!r} does not say how an item of modality {modality!r} is written")


def _slot_names(registry: Registry) -> set[str]:
    modalities = {modality for published in registry.components("encoder") for modality in published.spec.modalities}
    return {FOUNDATION, *map(encoder_slot, modalities), *map(projector_slot, modalities)}


# -------------------------------------------------------------------------------------------------------- the other sections


def _run(
    tree: dict[str, Any], sections: Mapping[str, Any], slots: Mapping[str, Slot], registry: Registry, findings: Findings
) -> RunSettings:
    """The settings; where some are wrong, the rest with defaults in their places, so that the rest is checked too."""
    encoders: dict[str, EncoderLayout] = {}
    if isinstance(parallel := tree.get("parallel"), Mapping):
        own = {key: value for key, value in parallel.items() if key == "encoders" or slot_kind(key) or isinstance(value, Mapping)}
        tree["parallel"] = {key: value for key, value in parallel.items() if key not in own}
        encoders = _encoder_layouts(own, sections, findings)
    noted = len(findings.issues)
    run = validated(RunSettings, tree, "", findings, also_valid={"model", *_dotted_settings(RunSettings)})
    if run is None:
        sound = json.loads(json.dumps(tree))
        for issue in findings.issues[noted:]:
            _remove(sound, issue.key)
        run = validated(RunSettings, sound, "", Findings(findings.provenance)) or RunSettings()
    encoders = {name: encoders.get(name, EncoderLayout()) for name in slots if slot_kind(name) == "encoder"}
    return run.model_copy(update={"parallel": run.parallel.model_copy(update={"encoders": encoders})})


def _remove(tree: dict[str, Any], key: str) -> None:
    """Takes a key out of a nested tree; one inside a list takes the list with it."""
    here: Any = tree
    *above, last = key.split(".")
    for part in above:
        if not isinstance(here.get(part), dict):
            last = part
            break
        here = here[part]
    here.pop(last, None)


def _check_run(
    run: RunSettings, sections: Mapping[str, Any], slots: Mapping[str, Slot], registry: Registry, findings: Findings
) -> RunSettings:
    """The settings with `data.augment` as the encoders' processors understand it."""
    if run.data.prepare is not None:
        _check_prepare(run, registry, findings)
    augment = {
        modality: _augmentation(modality, settings, sections, slots, registry, findings) for modality, settings in run.data.augment.items()
    }
    return run.model_copy(update={"data": run.data.model_copy(update={"augment": augment})})


def _encoder_layouts(written: Mapping[str, Any], sections: Mapping[str, Any], findings: Findings) -> dict[str, EncoderLayout]:
    """The sections of `parallel` that are named after encoder slots."""
    layouts: dict[str, EncoderLayout] = {}
    encoders = [name for name in sections if slot_kind(name) == "encoder"]
    for name, section in written.items():
        if name not in encoders:
            findings.add(f"parallel.{name}", f"model has no encoder slot of this name{did_you_mean(name, encoders)}")
        elif not isinstance(section, Mapping):
            findings.add(f"parallel.{name}", f"got {section!r}, expected a mapping of keys to values")
        elif (layout := validated(EncoderLayout, section, f"parallel.{name}", findings)) is not None:
            layouts[name] = layout
    return layouts


def _augmentation(
    modality: str,
    settings: Mapping[str, Any],
    sections: Mapping[str, Any],
    slots: Mapping[str, Slot],
    registry: Registry,
    findings: Findings,
) -> dict[str, Any]:
    """The settings of `data.augment.<modality>` as the encoder's processor understands them."""
    key = f"data.augment.{modality}"
    encoders = {
        taken: name
        for name, slot in slots.items()
        if slot_kind(name) == "encoder"
        for taken in (slot_modality(name), *slot.settings.also_encodes)
    }
    if modality not in encoders:
        if encoder_slot(modality) not in sections:
            modalities = [slot_modality(slot) for slot in sections if slot_kind(slot) == "encoder"]
            findings.add(key, f"model has no {encoder_slot(modality)}{did_you_mean(modality, modalities)}")
        return dict(settings)
    spec = slots[encoders[modality]].spec
    try:
        augment_config = registry.load(spec, "processor").augment_config
    except PluginError as error:
        findings.add(key, str(error), cause=error.__cause__)
        return dict(settings)
    if augment_config is None:
        findings.add(key, f"the processor of {spec.name} distorts nothing; leave this out")
        return dict(settings)
    augmentation: BaseModel | None = validated(augment_config, settings, key, findings)
    return augmentation.model_dump(mode="json") if augmentation else dict(settings)


def _check_prepare(run: RunSettings, registry: Registry, findings: Findings) -> None:
    assert run.data.prepare is not None
    try:
        registry.dataset(run.data.prepare)
    except PluginError as error:
        findings.add("data.prepare", str(error), cause=error.__cause__)
    if not run.data.path:
        findings.add("data.prepare", "the data set is written into the folder of data.path, which is not given")


def _check_length(composition: Composition, findings: Findings) -> None:
    """Whether a sample fits into the language model, and one item into a sample, where every item gives the same number of tokens."""
    length = composition.run.train.seq_length
    longest = composition.foundation.max_sequence_length if composition.foundation else None
    if composition.run.data.path is not None and longest is not None and length > longest:  # without data, no sample is that long
        findings.add("train.seq_length", f"got {length}, but the {FOUNDATION} was made for sequences of at most {longest} tokens")
    for modality in composition.modalities if composition.foundation else ():
        try:
            tokens = composition.tokens_per_item(modality)
        except ValueError:  # noted already, where the projector is
            continue
        if tokens is not None and tokens > length:
            findings.add("train.seq_length", f"one {modality} gives {tokens} tokens, and a sample has at most {length}")


def layout_dependences(composition: Composition) -> list[Issue]:
    """What gives up that numbers are the same in every layout."""
    return [
        Issue(f"numbers depend on the layout and the size of a micro-batch: {why}", f"model.{name}")
        for name, slot in composition.slots.items()
        if (why := slot.config.depends_on_layout)
    ]


def missing_backends(composition: Composition) -> list[Issue]:
    """Backends that are not installed here: no error of the configuration, which may be a cluster's, but here no model can be built."""
    return [
        Issue(f"{why}; install transformer-engine, or use 'torch'", f"model.{name}.backend")
        for name, slot in composition.slots.items()
        if slot.settings.backend and (why := missing_backend(slot.settings.backend))
    ]


def _dotted_settings(model: type[BaseModel]) -> set[str]:
    """`train.lr` and the like: what a key at the top may have been meant to be."""
    sections = {name: field.annotation for name, field in model.model_fields.items()}
    return {
        f"{name}.{field}"
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, BaseModel)
        for field in section.model_fields
    }


def _resolved_model(recipe: tuple[ComponentSpec, RecipeConfig], slots: Mapping[str, Slot]) -> dict[str, Any]:
    """The model section as plain data, inferred widths and defaults included; loading it again gives an equal composition."""
    spec, config = recipe
    model: dict[str, Any] = {"model_type": spec.name, **config.model_dump(mode="json")}
    for name, slot in slots.items():
        settings = slot.settings.model_dump(mode="json", exclude_defaults=True)
        model[name] = {"type": slot.spec.name, **settings, **slot.config.model_dump(mode="json")}
    return model


def _resolved_run(run: RunSettings) -> dict[str, Any]:
    tree = run.model_dump(mode="json")
    tree["parallel"].update(tree["parallel"].pop("encoders"))
    return tree
