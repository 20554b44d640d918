"""The sections beside `model:`: settings, how each encoder is laid out, and data as the installed components understand it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from loongforge_core.config.composition import Slot
from loongforge_core.config.sentences import Findings, validated
from loongforge_core.config.settings import EncoderLayout, RunSettings, TrainSettings
from loongforge_core.config.slot_names import encoder_slot, slot_kind, slot_modality
from loongforge_core.errors import PluginError, did_you_mean
from loongforge_core.registry.registry import Registry

__all__ = ["check_run"]


def check_run(
    tree: Mapping[str, Any], sections: Mapping[str, Any], slots: Mapping[str, Slot], registry: Registry, findings: Findings
) -> RunSettings:
    """What the keys of `tree`, all but `model`, come to; what is wrong is noted, and has its default."""
    run = settings_of(dict(tree), sections, slots, findings)
    check_saving(run.train, findings)
    if run.data.prepare is not None:
        check_prepare(run, registry, findings)
    augment = {
        modality: augmentation_of(modality, settings, sections, slots, registry, findings)
        for modality, settings in run.data.augment.items()
    }
    return run.model_copy(update={"data": run.data.model_copy(update={"augment": augment})})


def settings_of(tree: dict[str, Any], sections: Mapping[str, Any], slots: Mapping[str, Slot], findings: Findings) -> RunSettings:
    """The settings; where some are wrong, the rest with defaults in their places, so that the rest is checked too."""
    encoders: dict[str, EncoderLayout] = {}
    if isinstance(parallel := tree.get("parallel"), Mapping):
        own = {key: value for key, value in parallel.items() if key == "encoders" or slot_kind(key) or isinstance(value, Mapping)}
        tree["parallel"] = {key: value for key, value in parallel.items() if key not in own}
        encoders = encoder_layouts(own, sections, findings)
    noted = len(findings.issues)
    for name in [key for key in tree if slot_kind(key)]:
        findings.add(name, f"a slot is a part of `model`: write model.{name}, or `GROUP@model.{name}: NAME` under `defaults`")
        del tree[name]
    run = validated(RunSettings, tree, "", findings, also_valid={"model", *dotted_settings(RunSettings)})
    if run is None:
        sound = json.loads(json.dumps(tree))
        for issue in findings.issues[noted:]:
            remove(sound, issue.key)
        run = validated(RunSettings, sound, "", Findings(findings.provenance)) or RunSettings()
    encoders = {name: encoders.get(name, EncoderLayout()) for name in slots if slot_kind(name) == "encoder"}
    return run.model_copy(update={"parallel": run.parallel.model_copy(update={"encoders": encoders})})


def dotted_settings(model: type[BaseModel]) -> set[str]:
    """`train.lr` and the like: what a key at the top may have been meant to be."""
    sections = {name: field.annotation for name, field in model.model_fields.items()}
    return {
        f"{name}.{field}"
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, BaseModel)
        for field in section.model_fields
    }


def remove(tree: dict[str, Any], key: str) -> None:
    """Takes a key out of a nested tree; one inside a list takes the list with it."""
    here: Any = tree
    *above, last = key.split(".")
    for part in above:
        if not isinstance(here.get(part), dict):
            last = part
            break
        here = here[part]
    here.pop(last, None)


def encoder_layouts(written: Mapping[str, Any], sections: Mapping[str, Any], findings: Findings) -> dict[str, EncoderLayout]:
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


def augmentation_of(
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
            modalities = {*encoders, *(slot_modality(slot) for slot in sections if slot_kind(slot) == "encoder")}
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


def check_saving(train: TrainSettings, findings: Findings) -> None:
    retained, interval = train.save_retain_interval, train.save_interval
    if not retained:
        return
    message = ""
    if not interval:
        message = "but train.save_interval is 0: nothing is saved before the end; set that too"
    elif retained % interval:
        below = retained // interval * interval
        near = f"{below} or {below + interval}" if below else f"{interval}"
        message = f"which is no multiple of train.save_interval ({interval}); nearest valid: {near}"
    elif not train.keep_checkpoints:
        message = "but train.keep_checkpoints is 0: all checkpoints are kept; leave this out, or set that too"
    if message:
        findings.add("train.save_retain_interval", f"got {retained}, {message}")


def check_prepare(run: RunSettings, registry: Registry, findings: Findings) -> None:
    assert run.data.prepare is not None
    try:
        registry.dataset(run.data.prepare)
    except PluginError as error:
        findings.add("data.prepare", str(error), cause=error.__cause__)
    if not run.data.path:
        findings.add("data.prepare", "the data set is written into the folder of data.path, which is not given")
