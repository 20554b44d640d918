"""What `show` tells of a component, as plain data: where it is from, its fields, its published sizes and how these can be laid out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from loongforge_core.cli.fields import fixed_fields, settable_fields, written
from loongforge_core.component import SLOT_KEYS, BackboneConfig, ComponentConfig, ComponentSpec, ProjectorConfig
from loongforge_core.config.composition import Composition, described
from loongforge_core.config.document import read_document
from loongforge_core.config.library import PublishedFile, published_files
from loongforge_core.config.slot_names import FOUNDATION
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Published, Registry

__all__ = ["INFERRED", "description", "sizes_of"]

LARGEST_SPLIT = 64
"""Parallel sizes are tried up to this one."""

INFERRED = frozenset(ProjectorConfig.model_fields)
"""A projector's fields that its neighbours decide."""


def description(published: Published[ComponentSpec], registry: Registry, *, count: bool) -> dict[str, Any]:
    """`count`: with the number of parameters of every size, for which torch is imported."""
    spec = published.spec
    config_class = registry.load(spec, "config")
    return {
        "kind": spec.kind,
        "name": spec.name,
        "distribution": published.origin.distribution,
        "version": published.origin.version,
        "modalities": list(spec.modalities),
        "summary": spec.summary,
        "reference": spec.reference,
        "paper": spec.paper,
        "left_out": spec.left_out,
        "layouts": layouts_in_words(spec, config_class),
        "backends": list(config_class.backends) if spec.kind != "recipe" else [],
        "fields": settable_fields(config_class),
        "fixed": fixed_fields(config_class),
        "original_forms": sorted(config_class.original_forms),
        "augment": augmentation_fields(spec, registry),
        "sizes": [
            size(file, spec, config_class, registry, count=count) for file in sorted(sizes_of(spec, registry), key=lambda file: file.name)
        ],
    }


def augmentation_fields(spec: ComponentSpec, registry: Registry) -> list[dict[str, Any]]:
    """What `data.augment.<modality>` takes; nothing where the processor distorts nothing."""
    settings = registry.load(spec, "processor").augment_config if spec.processor else None
    return settable_fields(settings) if settings else []


# ---- sizes


def sizes_of(spec: ComponentSpec, registry: Registry) -> Iterator[PublishedFile]:
    """The YAML files that say what size it has; of a recipe, the compositions that it belongs to."""
    key = "model.model_type" if spec.kind == "recipe" else "type"
    for file in published_files(registry.config_folders):
        try:
            if value_at(read_document(file.path).tree, key) == spec.name:
                yield file
        except ConfigError:  # `list` says what is wrong with it
            continue


def value_at(tree: Any, key: str) -> Any:
    """What stands at a dotted key; None where nothing does."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def size(file: PublishedFile, spec: ComponentSpec, config_class: type[Any], registry: Registry, *, count: bool) -> dict[str, Any]:
    """What a published size is and where it can be split; None for what its neighbours decide."""
    found: dict[str, Any] = {
        "name": file.name,
        "summary": "",
        "tensor_parallel_sizes": None,
        "expert_parallel_sizes": None,
        "parameters": None,
    }
    if spec.kind == "recipe":
        return {**found, **parts_of(file, registry)}
    fields = {key: value for key, value in read_document(file.path).tree.items() if key not in SLOT_KEYS and key != "defaults"}
    if spec.kind == "projector":
        return {**found, "summary": written(fields)}
    config = config_class.model_validate_json(json.dumps(fields))
    found |= {"summary": described(config), **parallel_sizes(config)}
    if count:
        found["parameters"] = parameters_of(config, spec, registry)
    return found


def parts_of(file: PublishedFile, registry: Registry) -> dict[str, Any]:
    """Of a composition: what fills its slots, and where its language model can be split."""
    try:
        composition = composition_of(file.name, registry)
    except ConfigError as error:
        return {"summary": f"cannot be composed: {error.issues[0]}"}
    parts = ", ".join(f"{name} {slot.spec.name}" for name, slot in composition.slots.items())
    return {"summary": parts, **(parallel_sizes(composition.slots[FOUNDATION].config) if FOUNDATION in composition.slots else {})}


def composition_of(name: str, registry: Registry) -> Composition:
    from loongforge_core.config.check import load_composition

    return load_composition(name, registry=registry, world_size=None)


def parallel_sizes(config: ComponentConfig) -> dict[str, Any]:
    """Tensor-parallel sizes, and of a model with experts the numbers of ranks that can share them."""
    sizes = range(1, LARGEST_SPLIT + 1)
    found: dict[str, Any] = {"tensor_parallel_sizes": [split for split in sizes if not config.tensor_parallel_conflicts(split)]}
    if isinstance(config, BackboneConfig):
        shared = [ranks for ranks in sizes if not config.expert_parallel_conflicts(ranks, 1)]
        found["expert_parallel_sizes"] = shared if len(shared) > 1 else None
    return found


def parameters_of(config: ComponentConfig, spec: ComponentSpec, registry: Registry) -> int:
    """Counted on the module, built without memory."""
    import torch

    from loongforge_core.layers.interfaces import BuildContext
    from loongforge_core.model.auto import AutoModel
    from loongforge_core.parallel.groups import component_groups
    from loongforge_core.parallel.launch import single_process

    with single_process():
        context = BuildContext(groups=component_groups(), device=torch.device("meta"))
        module = AutoModel.from_config(config, context, registry, spec=spec)
    return sum(parameter.numel() for parameter in module.parameters())


def layouts_in_words(spec: ComponentSpec, config_class: type[ComponentConfig]) -> str:
    """How a component can be laid out; its sizes say over how many ranks."""
    slot = f"{spec.modalities[0] if spec.modalities else 'MODALITY'}_encoder"
    whole = "whole on every tensor rank"
    if spec.kind == "encoder" and config_class.tensor_parallel_conflicts is ComponentConfig.tensor_parallel_conflicts:
        return f"{whole}; it is not made to be split"
    return {
        "encoder": f"{whole}, or split: `parallel.{slot}: {{layout: tensor, tensor_model_parallel_size: N}}`",
        "projector": "those of its encoder, on the same ranks",
        "backbone": "tensor and pipeline parallel, in as many stages as it has layers, and data parallel in any number of copies",
        "recipe": "those of its parts",
    }[spec.kind]
