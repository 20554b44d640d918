"""Commands that look and change nothing: `list`, `show`, `validate`, `copy-configs`. None of them imports torch."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from loongforge_core.component import ComponentSpec
from loongforge_core.config.document import read_document
from loongforge_core.config.library import fills_slots, published_files
from loongforge_core.errors import ConfigError, InputError, PluginError, did_you_mean
from loongforge_core.registry.registry import Published, Registry

__all__ = ["copy_configs", "list_published", "show", "validate"]

Row = dict[str, Any]


def list_published(args: argparse.Namespace) -> None:
    """Everything that can be selected, and the plugins that could not be loaded."""
    registry = Registry.discover()
    rows = [row for row in _rows(registry) if args.kind in (None, row["kind"])]
    twice = {key for key, number in Counter((row["kind"], row["name"]) for row in rows).items() if number > 1}
    for row in rows:
        row["duplicate"] = (row["kind"], row["name"]) in twice
    broken = [] if args.kind else _broken_rows(registry)
    if args.json:
        print(json.dumps([*rows, *broken], indent=2))
        return
    lines = [(row["kind"], row["name"], _distribution(row), ", ".join(row["modalities"]), _summary(row)) for row in rows]
    _print_table(("KIND", "NAME", "DISTRIBUTION", "MODALITIES", "SUMMARY"), lines)
    for row in broken:
        print(f"\nbroken: {_distribution(row)} ({row['name']}): {row['reason']}")


def _rows(registry: Registry) -> Iterator[Row]:
    for component in registry.components():
        spec = component.spec
        yield _row(spec.kind, spec.name, component.origin, summary=spec.summary, modalities=spec.modalities)
    for dataset in registry.datasets():
        yield _row("dataset", dataset.spec.name, dataset.origin, summary=dataset.spec.summary)
    for file in published_files(registry.config_folders):
        try:
            document = read_document(file.path)
        except ConfigError as error:
            yield _row("composition", file.name, file.origin, summary=f"cannot be read: {error}")
            continue
        if fills_slots(document):
            first = document.text.lstrip().split("\n")[0]
            yield _row("composition", file.name, file.origin, summary=first.strip("#: ") if first.startswith("#") else "")


def _row(kind: str, name: str, origin: Any, *, summary: str, modalities: Sequence[str] = ()) -> Row:
    return {
        "kind": kind,
        "name": name,
        "distribution": origin.distribution,
        "version": origin.version,
        "modalities": list(modalities),
        "summary": summary,
    }


def _broken_rows(registry: Registry) -> list[Row]:
    return [
        {
            "kind": "broken",
            "name": broken.entry_point,
            "distribution": broken.distribution,
            "version": broken.version,
            "reason": broken.reason,
        }
        for broken in registry.broken
    ]


def _distribution(row: Row) -> str:
    return f"{row['distribution']} {row['version']}"


def _summary(row: Row) -> str:
    summary: str = row["summary"]
    return f"PUBLISHED TWICE, cannot be selected: {summary}" if row["duplicate"] else summary


# -------------------------------------------------------------------------------------------------------------------- show


def show(args: argparse.Namespace) -> None:
    """The components of a name; or the YAML of that name, composed."""
    registry = Registry.discover()
    components = [published for published in registry.components() if published.spec.name == args.name]
    if not components:
        _show_yaml(args.name, registry, as_json=args.json)
        return
    described = [_description(published, registry) for published in components]
    if args.json:
        print(json.dumps(described, indent=2))
        return
    for description in described:
        _print_description(description)


def _description(published: Published[ComponentSpec], registry: Registry) -> Row:
    spec = published.spec
    fields = registry.load(spec, "config").model_fields
    return {
        **_row(spec.kind, spec.name, published.origin, summary=spec.summary, modalities=spec.modalities),
        "reference": spec.reference,
        "paper": spec.paper,
        "fields": [
            {
                "name": name,
                "type": _type_name(field.annotation),
                "required": field.is_required(),
                "default": None if field.is_required() else _plain(field.get_default(call_default_factory=True)),
                "description": " ".join((field.description or "").split()),
            }
            for name, field in fields.items()
        ],
        "sizes": sorted(file.name for file in published_files(registry.config_folders) if _type_of(file.path) == spec.name),
    }


def _print_description(description: Row) -> None:
    modalities = f" ({', '.join(description['modalities'])})" if description["modalities"] else ""
    print(f"{description['kind']} {description['name']}{modalities}: {description['summary']}")
    print(f"  published by {description['distribution']} {description['version']}")
    for key in ("reference", "paper"):
        if description[key]:
            print(f"  {key}: {description[key]}")
    print(f"  sizes: {', '.join(description['sizes']) or 'none published'}\n")
    rows = [
        (field["name"], field["type"], "required" if field["required"] else json.dumps(field["default"]), field["description"])
        for field in description["fields"]
    ]
    _print_table(("  FIELD", "TYPE", "DEFAULT", "MEANING"), [(f"  {name}", *rest) for name, *rest in rows])
    print()


def _show_yaml(name: str, registry: Registry, *, as_json: bool) -> None:
    from loongforge_core.config.compose import compose_tree
    from loongforge_core.config.library import Library

    files = list(published_files(registry.config_folders))
    full_names = sorted({file.name for file in files if name in (file.name, file.name.rpartition("/")[2])})
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


def _type_of(path: Path) -> str:
    try:
        return str(read_document(path).tree.get("type", ""))
    except ConfigError:
        return ""


def _type_name(annotation: Any) -> str:
    plain_class = isinstance(annotation, type) and not get_args(annotation)
    return annotation.__name__ if plain_class else str(annotation).replace("typing.", "")


def _plain(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


# ---------------------------------------------------------------------------------------------------------------- validate


def validate(args: argparse.Namespace) -> None:
    """Loads a composition with every check, and says what it is."""
    from loongforge_core.config.check import load_composition, missing_backends
    from loongforge_core.config.layout import describe_layout

    registry = Registry.discover()
    composition = load_composition(
        args.config, args.overrides, registry=registry, config_dirs=[Path(folder) for folder in args.config_dir], world_size=args.world_size
    )
    rows = []
    for name, slot in composition.slots.items():
        rows.append((f"  {name}", slot.spec.name, str(registry.origin(slot.spec)), composition.describe_slot(name)))
    recipe = composition.recipe
    rows.append(("  recipe", recipe.name, str(registry.origin(recipe)), recipe.summary))
    print(composition.name)
    _print_table((), rows)
    train = composition.run.train
    print(
        f"  training: {train.steps} steps of {train.global_batch_size} samples, at most {train.seq_length} tokens each, "
        f"{train.precision}, learning rate {train.lr:g}"
    )
    for line in describe_layout(composition, args.world_size):
        print(f"  {line}")
    for issue in missing_backends(composition):
        print(f"  note: {issue.key}: {issue.message}")
    print("OK")


# ------------------------------------------------------------------------------------------------------------ copy-configs


def copy_configs(args: argparse.Namespace) -> None:
    """Writes every published YAML file; nothing where one of them exists already."""
    target = Path(args.folder)
    files = list(published_files(Registry.discover().config_folders))
    names = Counter(file.name for file in files)
    if twice := [f"{file.name} ({file.origin})" for file in files if names[file.name] > 1]:
        raise PluginError(f"published by two plugins: {', '.join(twice)}")
    if existing := [str(path) for file in files if (path := target / f"{file.name}.yaml").exists()]:
        raise InputError(f"nothing was written, because these exist already: {', '.join(existing)}")
    try:
        for file in files:
            path = target / f"{file.name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.path.read_text(encoding="utf-8"), encoding="utf-8")
            print(f"{path}  ({file.origin})")
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from error
    print(f"{len(files)} files; they take precedence where {target} is ./configs/models or is given as --config-dir")


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = [header, *rows] if header else list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
