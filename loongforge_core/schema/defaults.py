"""What the JSON schema says of `defaults`: the published names are proposed, and any other may be a user's own file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from loongforge_core.config.document import read_document
from loongforge_core.config.library import fills_slots, published_files
from loongforge_core.config.slot_names import FOUNDATION
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry
from loongforge_core.schema.fields import Schema

__all__ = ["defaults_schema"]

WAYS = ("", "../../models/")
"""How a group is written: as a name, or as the published files do."""
BEFORE = r"^((optional|override) )*(\.\./)*/?(models/)?"
"""What may stand before a group's name."""


def defaults_schema(registry: Registry, slots: Sequence[str]) -> Schema:
    """A list of NAME, or GROUP@model.SLOT: NAME."""
    compositions, groups = published(registry)
    return {
        "description": "Files that this one starts from, one after the other: NAME, or GROUP@model.SLOT: NAME.",
        "type": "array",
        "items": {
            "anyOf": [
                {"enum": ["_self_", *compositions]},
                {"type": "string"},
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {
                        f"{way}{target}": one_of_names(groups[group]) for way in WAYS for group, target in targets(groups, slots)
                    },
                    "patternProperties": {f"{BEFORE}{re.escape(group)}(@|$)": one_of_names(names) for group, names in groups.items()},
                    "additionalProperties": one_of_names([]),
                },
            ]
        },
    }


def published(registry: Registry) -> tuple[list[str], dict[str, list[str]]]:
    """The compositions, and the sizes of components by group."""
    compositions: list[str] = []
    groups: dict[str, list[str]] = {}
    for file in published_files(registry.config_folders):
        try:
            document = read_document(file.path)
        except ConfigError:  # `list` says what is wrong with it
            continue
        group, _, name = file.name.rpartition("/")
        if fills_slots(document):
            compositions.append(file.name)
        else:
            groups.setdefault(group, []).append(name)
    return compositions, groups


def targets(groups: dict[str, list[str]], slots: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each group with the key that puts it into a slot: the one of its own name, or the foundation."""
    for group in groups:
        slot = group if group in slots else FOUNDATION
        yield group, f"{group}@model.{slot}"


def one_of_names(proposed: Sequence[str]) -> Schema:
    others = [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"type": "string"}}]
    return {"anyOf": [{"enum": list(proposed)}, *others] if proposed else others}
