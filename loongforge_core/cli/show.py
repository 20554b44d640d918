"""`show`: what a component is, its fields and its published sizes; or a YAML file with everything it draws on.
No torch is imported unless parameters are to be counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from loongforge_core.cli.description import INFERRED, description
from loongforge_core.cli.fields import Field, written
from loongforge_core.cli.report import print_table
from loongforge_core.config.document import read_document
from loongforge_core.config.library import Library, fills_slots, heading, published_files
from loongforge_core.config.settings import SlotSettings
from loongforge_core.errors import InputError, did_you_mean
from loongforge_core.registry.registry import Registry

__all__ = ["show"]


def show(args: argparse.Namespace) -> None:
    """The components of a name; or the data set and the YAML of that name, composed."""
    registry = Registry.discover(without=args.without)
    found = [published for published in registry.components() if published.spec.name == args.name]
    shown = [description(published, registry, count=args.parameters) for published in found]
    shown = shown or [*datasets(args.name, registry), *yaml_files(args.name, registry)]
    if not shown:
        names = {published.spec.name for published in registry.components()} | {
            file.name for file in published_files(registry.config_folders)
        }
        absent = "".join(f"; {plugin}" for plugin in registry.left_out)
        raise InputError(f"nothing of the name {args.name!r} is installed{did_you_mean(args.name, names)}{absent}")
    if args.json:
        print(json.dumps(shown, indent=2))
        return
    for each in shown:
        {"dataset": print_dataset, "composition": print_yaml, "size": print_yaml}.get(each["kind"], print_description)(each)


# ---- data sets, YAML


def datasets(name: str, registry: Registry) -> Iterator[dict[str, Any]]:
    for dataset in registry.datasets():
        if dataset.spec.name == name:
            yield {"kind": "dataset", "name": name, "summary": dataset.spec.summary, **vars(dataset.origin)}


def print_dataset(shown: Mapping[str, Any]) -> None:
    print(f"dataset {shown['name']}: {shown['summary']}")
    print(f"  published by {shown['distribution']} {shown['version']}; `data.prepare: {shown['name']}` writes it")
    print()


def yaml_files(name: str, registry: Registry) -> Iterator[dict[str, Any]]:
    """Those of the name, or of the name in any folder, with everything that they draw on."""
    from loongforge_core.config.compose import compose_tree

    for file in published_files(registry.config_folders):
        if name in (file.name, file.name.rpartition("/")[2]):
            document = read_document(file.path)
            yield {
                "kind": "composition" if fills_slots(document) else "size",
                "name": file.name,
                "summary": heading(document),
                **vars(file.origin),
                "path": str(file.path),
                "tree": compose_tree(file.name, (), Library((), registry.config_folders)).tree,
            }


def print_yaml(shown: Mapping[str, Any]) -> None:
    import yaml

    print(f"# {shown['name']}, published by {shown['distribution']} {shown['version']}: {shown['path']}")
    if shown["summary"]:
        print(f"# {shown['summary']}")
    print(yaml.safe_dump(shown["tree"], sort_keys=False))


# ---- a component


def print_description(shown: Mapping[str, Any]) -> None:
    modalities = f" ({', '.join(shown['modalities'])})" if shown["modalities"] else ""
    print(f"{shown['kind']} {shown['name']}{modalities}: {shown['summary']}")
    print(f"  published by {shown['distribution']} {shown['version']}")
    for key in ("reference", "paper", "left_out", "layouts"):
        if shown[key]:
            print(f"  {key.replace('_', ' ')}: {shown[key]}")
    print()
    print_fields(shown)
    if shown["sizes"]:
        print_sizes(shown)


def print_fields(shown: Mapping[str, Any]) -> None:
    if shown["fields"]:
        inferred = INFERRED if shown["kind"] == "projector" else frozenset()
        print_table(("  FIELD", "TYPE", "DEFAULT", "MEANING"), list(field_rows(shown["fields"], "  ", inferred)))
    if shown["fixed"]:
        print(f"  fixed: {written(shown['fixed'])}")
    if shown["kind"] != "recipe":
        notes = {"backend": f" ({' or '.join(shown['backends'])})"}
        keys = [key + notes.get(key, "") for key in SlotSettings.model_fields if key != "also_encodes" or shown["kind"] == "encoder"]
        print(f"  beside these, the slot's own keys: {', '.join(keys)}")
    if shown["original_forms"]:
        print(f"  keys of the original design that are read too: {', '.join(shown['original_forms'])}")
    if shown["augment"]:
        print()
        print_table((f"  data.augment.{shown['modalities'][0]}", "TYPE", "DEFAULT", "MEANING"), list(field_rows(shown["augment"], "  ")))
    print()


def field_rows(fields: list[Field], indent: str, inferred: frozenset[str] = frozenset()) -> Iterator[tuple[str, ...]]:
    """A row for every field; below a field that takes mappings, one for each form that these have, and their fields."""
    for field in fields:
        default = "required" if field["required"] else json.dumps(field["default"])
        yield f"{indent}{field['name']}", field["type"], "inferred" if field["name"] in inferred else default, field["description"]
        for form in field["forms"]:
            if form["when"]:
                yield f"{indent}  {written(form['when'])}", "", "", form["description"]
            yield from field_rows(form["fields"], f"{indent}    ")


def print_sizes(shown: Mapping[str, Any]) -> None:
    """A column of what no size has is left out."""
    named = "COMPOSITION" if shown["kind"] == "recipe" else "SIZE"
    columns = {
        f"  {named}": [f"  {each['name']}" for each in shown["sizes"]],
        "PARAMETERS": ["" if each["parameters"] is None else f"{each['parameters']:,}" for each in shown["sizes"]],
        "WHAT IT IS": [each["summary"] for each in shown["sizes"]],
        "TENSOR-PARALLEL SIZES": [", ".join(map(str, each["tensor_parallel_sizes"] or ())) for each in shown["sizes"]],
        "EXPERT-PARALLEL SIZES": [", ".join(map(str, each["expert_parallel_sizes"] or ())) for each in shown["sizes"]],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    print_table(tuple(columns), list(zip(*columns.values(), strict=True)))
    print()
