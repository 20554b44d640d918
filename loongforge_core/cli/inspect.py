"""Commands that look and change nothing: `list`, `validate`, `copy-configs`. None of them imports torch."""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loongforge_core.cli.report import print_table
from loongforge_core.config.document import read_document
from loongforge_core.config.library import PublishedFile, fills_slots, heading, published_files
from loongforge_core.errors import ConfigError, InputError, PluginError
from loongforge_core.registry import Origin, Registry

__all__ = ["copy_configs", "list_published", "validate"]

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def list_published(args: argparse.Namespace) -> None:
    """Everything that can be selected, and the plugins that could not be loaded."""
    registry = Registry.discover(without=args.without)
    rows = [row for row in published_rows(registry) if args.kind in (None, row["kind"])]
    twice = {key for key, number in Counter((row["kind"], row["name"]) for row in rows).items() if number > 1}
    for row in rows:
        row["duplicate"] = (row["kind"], row["name"]) in twice
    plugins = [] if args.kind else list(plugin_rows(registry))
    if args.json:
        print(json.dumps([*rows, *plugins], indent=2))
        return
    lines = [(row["kind"], row["name"], distribution_of(row), ", ".join(row["modalities"]), summary_of(row)) for row in rows]
    print_table(("KIND", "NAME", "DISTRIBUTION", "MODALITIES", "SUMMARY"), lines)
    for row in plugins:
        name = f" ({row['name']})" if row["name"] else ""
        print(f"\n{row['kind'].replace('_', ' ')}: {distribution_of(row)}{name}: {row['reason']}")


def published_rows(registry: Registry) -> Iterator[Row]:
    for component in registry.components():
        spec = component.spec
        yield row_of(spec.kind, spec.name, component.origin, summary=spec.summary, modalities=spec.modalities)
    for dataset in registry.datasets():
        yield row_of("dataset", dataset.spec.name, dataset.origin, summary=dataset.spec.summary)
    for file in published_files(registry.config_folders):
        try:
            document = read_document(file.path)
        except ConfigError as error:
            yield row_of("composition", file.name, file.origin, summary=f"cannot be read: {error}")
            continue
        if fills_slots(document):
            yield row_of("composition", file.name, file.origin, summary=heading(document))


def row_of(kind: str, name: str, origin: Origin, *, summary: str, modalities: Sequence[str] = ()) -> Row:
    return {
        "kind": kind,
        "name": name,
        "distribution": origin.distribution,
        "version": origin.version,
        "modalities": list(modalities),
        "summary": summary,
    }


def plugin_rows(registry: Registry) -> Iterator[Row]:
    """What is to be said of plugins as such, by the entry point that it is about."""
    for broken in registry.broken:
        yield plugin_row("broken", broken.entry_point, Origin(broken.distribution, broken.version), broken.reason)
    for remark in registry.remarks:
        yield plugin_row("warning", remark.entry_point, remark.origin, remark.text)
    for absent in registry.left_out:
        yield plugin_row("left_out", "", absent.origin, "by --without")


def plugin_row(kind: str, name: str, origin: Origin, reason: str) -> Row:
    return {"kind": kind, "name": name, "distribution": origin.distribution, "version": origin.version, "reason": reason}


def distribution_of(row: Row) -> str:
    return f"{row['distribution']} {row['version']}".rstrip()


def summary_of(row: Row) -> str:
    summary: str = row["summary"]
    return f"PUBLISHED TWICE, cannot be selected: {summary}" if row["duplicate"] else summary


# ---------------------------------------------------------------------------------------------------------------- validate


def validate(args: argparse.Namespace) -> None:
    """Loads a composition with every check, and says what it is."""
    from loongforge_core.config.check import idle_settings, layout_dependences, load_composition, long_items, missing_backends
    from loongforge_core.config.layout.words import describe_layout

    registry = Registry.discover(without=args.without)
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
    files = list(published_files(Registry.discover(without=args.without).config_folders))
    names = Counter(file.name for file in files)
    if twice := [f"{file.name} ({file.origin})" for file in files if names[file.name] > 1]:
        raise PluginError(f"published by two plugins: {', '.join(twice)}")
    if existing := [str(path) for file in files if (path := target / f"{file.name}.yaml").exists()]:
        raise InputError(f"nothing was written, because these exist already: {', '.join(existing)}")
    contents = {file: content for file in files if (content := content_of(file)) is not None}
    try:
        for file, content in contents.items():
            path = target / f"{file.name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            print(f"{path}  ({file.origin})")
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from error
    print(f"{len(contents)} files; they take precedence where {target} is ./configs/models or is given as --config-dir")


def content_of(file: PublishedFile) -> bytes | None:
    """None where it cannot be read, which is a warning: a broken plugin's file keeps no other from being copied."""
    try:
        return file.path.read_bytes()
    except OSError as error:
        logger.warning("%s cannot be read: %s", file.path, error.strerror)
        return None
