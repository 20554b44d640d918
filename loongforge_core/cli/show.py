"""`show`: what a component is, its fields and its published sizes; or a YAML file with everything it draws on.
No torch is imported unless parameters are to be counted.
"""

from __future__ import annotations

import argparse
import json
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from loongforge_core.cli.report import print_table
from loongforge_core.component import SLOT_KEYS, ComponentConfig, ComponentSpec, ProjectorConfig, RecipeConfig
from loongforge_core.config.document import read_document
from loongforge_core.config.library import PublishedFile, published_files
from loongforge_core.errors import ConfigError, InputError, did_you_mean
from loongforge_core.registry.registry import Published, Registry

__all__ = ["show"]

LARGEST_SPLIT = 64
"""Tensor-parallel sizes are tried up to this one."""


def show(args: argparse.Namespace) -> None:
    """The components of a name; or the YAML of that name, composed."""
    registry = Registry.discover()
    components = [published for published in registry.components() if published.spec.name == args.name]
    if not components:
        if found := [dataset for dataset in registry.datasets() if dataset.spec.name == args.name]:
            for dataset in found:
                print(
                    f"dataset {args.name}: {dataset.spec.summary}\n  published by {dataset.origin}; `data.prepare: {args.name}` writes it"
                )
        show_yaml(args.name, registry, as_json=args.json, also_found=bool(found))
        return
    described = [description(published, registry, count=args.parameters) for published in components]
    if args.json:
        print(json.dumps(described, indent=2))
        return
    for each in described:
        print_description(each)


def show_yaml(name: str, registry: Registry, *, as_json: bool, also_found: bool) -> None:
    """`also_found`: something else of this name has been shown already."""
    from loongforge_core.config.compose import compose_tree
    from loongforge_core.config.library import Library

    files = list(published_files(registry.config_folders))
    full_names = sorted({file.name for file in files if name in (file.name, file.name.rpartition("/")[2])})
    if not full_names and also_found:
        return
    if not full_names:
        names = {published.spec.name for published in registry.components()} | {file.name for file in files}
        raise InputError(f"nothing of the name {name!r} is installed{did_you_mean(name, names)}")
    trees = {full: compose_tree(full, (), Library((), registry.config_folders)).tree for full in full_names}
    if as_json:
        print(json.dumps(trees, indent=2))
        return
    import yaml

    for full, tree in trees.items():
        file = next(file for file in files if file.name == full)
        print(f"# {full}, published by {file.origin}: {file.path}")
        print(yaml.safe_dump(tree, sort_keys=False))


# ---- a component


def description(published: Published[ComponentSpec], registry: Registry, *, count: bool) -> dict[str, Any]:
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
        "fields": [
            {
                "name": name,
                "type": type_name(field.annotation),
                "required": field.is_required(),
                "default": None if field.is_required() else plain(field.get_default(call_default_factory=True)),
                "description": " ".join((field.description or "").split()),
            }
            for name, field in config_class.model_fields.items()
        ],
        "sizes": [
            size(file, spec, config_class, registry, count=count) for file in sorted(sizes_of(spec, registry), key=lambda file: file.name)
        ],
    }


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


def size(file: PublishedFile, spec: ComponentSpec, config_class: Any, registry: Registry, *, count: bool) -> dict[str, Any]:
    """A published size: where it can be split, and how many parameters it has; None where its neighbours decide."""
    fields = {key: value for key, value in read_document(file.path).tree.items() if key not in SLOT_KEYS and key != "defaults"}
    found: dict[str, Any] = {"name": file.name, "tensor_parallel_sizes": None, "parameters": None}
    if issubclass(config_class, ProjectorConfig | RecipeConfig):
        return found
    config = config_class.model_validate_json(json.dumps(fields))
    found["tensor_parallel_sizes"] = [split for split in range(1, LARGEST_SPLIT + 1) if not config.tensor_parallel_conflicts(split)]
    if count:
        found["parameters"] = parameters_of(config, spec, registry)
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


def print_description(shown: Mapping[str, Any]) -> None:
    modalities = f" ({', '.join(shown['modalities'])})" if shown["modalities"] else ""
    print(f"{shown['kind']} {shown['name']}{modalities}: {shown['summary']}")
    print(f"  published by {shown['distribution']} {shown['version']}")
    for key in ("reference", "paper", "left_out"):
        if shown[key]:
            print(f"  {key.replace('_', ' ')}: {shown[key]}")
    print()
    rows = [
        (field["name"], field["type"], "required" if field["required"] else json.dumps(field["default"]), field["description"])
        for field in shown["fields"]
    ]
    print_table(("  FIELD", "TYPE", "DEFAULT", "MEANING"), [(f"  {name}", *rest) for name, *rest in rows])
    if shown["sizes"]:
        print()
        counted = any(each["parameters"] for each in shown["sizes"])
        named = "COMPOSITION" if shown["kind"] == "recipe" else "SIZE"
        header = (f"  {named}", *(("PARAMETERS",) if counted else ()), "TENSOR-PARALLEL SIZES")
        print_table(header, [size_row(each, counted=counted) for each in shown["sizes"]])
    print()


def size_row(each: Mapping[str, Any], *, counted: bool) -> tuple[str, ...]:
    splits = each["tensor_parallel_sizes"]
    text = "by its parts" if splits is None else ", ".join(map(str, splits))
    parameters = "by its neighbours" if each["parameters"] is None else f"{each['parameters']:,}"
    return (f"  {each['name']}", *((parameters,) if counted else ()), text)


# ---- types and defaults as YAML has them


def type_name(annotation: Any) -> str:
    """`int | null` and the like: how a field's type reads to somebody who writes YAML."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "null"
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(type_name, inner)))
    if origin is Literal:
        return " | ".join(json.dumps(value) if not isinstance(value, str) else value for value in inner)
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(type_name, inner))}]" if inner else name


def plain(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)
