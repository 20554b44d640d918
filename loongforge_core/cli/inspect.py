"""Commands that look and change nothing: `list`, `validate`, `copy-configs`. None of them imports torch."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loongforge_core.cli.report import print_table
from loongforge_core.config.document import read_document
from loongforge_core.config.library import fills_slots, heading, published_files
from loongforge_core.errors import ConfigError, InputError, PluginError
from loongforge_core.registry.registry import Registry

__all__ = ["copy_configs", "list_published", "validate"]

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
    print_table(("KIND", "NAME", "DISTRIBUTION", "MODALITIES", "SUMMARY"), lines)
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
            yield _row("composition", file.name, file.origin, summary=heading(document))


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


# ---------------------------------------------------------------------------------------------------------------- validate


def validate(args: argparse.Namespace) -> None:
    """Loads a composition with every check, and says what it is."""
    from loongforge_core.config.check import idle_settings, layout_dependences, load_composition, long_items, missing_backends
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
    print_table((), rows)
    train = composition.run.train
    print(
        f"  training: {train.steps} steps of {train.global_batch_size} samples, at most {train.seq_length} tokens each, "
        f"{train.precision}, learning rate {train.lr:g}"
    )
    for line in describe_layout(composition, args.world_size):
        print(f"  {line}")
    for notes in (missing_backends, layout_dependences, long_items, idle_settings):
        for issue in notes(composition):
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
