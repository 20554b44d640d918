"""The `defaults:` of a file: everything named from the root, and who named what. Imports no Hydra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loongforge_core.config.document import Document
from loongforge_core.config.library import Library, canonical_group
from loongforge_core.errors import ConfigError, Issue, did_you_mean, near_match

__all__ = ["canonical_defaults", "missing_default", "writer_of_default"]


def canonical_defaults(document: Document, folder: str) -> list[Any]:
    """The defaults with everything named from the root, and `_self_` at the end where the file does not place it.

    Groups are always meant from the root; a plain name is a file beside the one that names it.
    """
    defaults = document.tree["defaults"]
    if not isinstance(defaults, list):
        raise ConfigError(Issue("expected a list of NAME or GROUP: NAME", "defaults", document.where("defaults")))
    canonical: list[Any] = []
    for index, default in enumerate(defaults):
        if isinstance(default, str):
            canonical.append(default if default == "_self_" else canonical_default(default, folder))
        elif isinstance(default, Mapping) and len(default) == 1 and isinstance(value := next(iter(default.values())), str | list | None):
            canonical.append({canonical_key(next(iter(default))): value})
        else:
            raise ConfigError(Issue(f"got {default!r}, expected NAME or GROUP: NAME", "defaults", document.where(f"defaults.{index}")))
    return canonical if "_self_" in canonical else [*canonical, "_self_"]


def canonical_default(default: str, folder: str) -> str:
    named_from_root = default.startswith(("/", "../", "models/"))
    return canonical_name(default if named_from_root or not folder else f"/{folder}/{default}")


def canonical_key(key: str) -> str:
    *keywords, name = key.split(" ")
    return " ".join([*keywords, canonical_name(name)])


def canonical_name(name: str) -> str:
    group, at, package = name.partition("@")
    return f"/{canonical_group(group)}{at}{package}"


def missing_default(group: str, option: str, library: Library) -> str:
    """What to say of a name that no folder has."""
    if not group and option and library.is_group(option):
        return f"{option!r} is a group of files: write `{option}@model.SLOT: NAME`{did_you_mean('', library.options(option))}"
    if not group:
        return f"no YAML file {option!r}{did_you_mean(option, library.names())}"
    is_group, homes = library.is_group(group), [other for other in library.groups() if option in library.options(other)]
    missing = f"no {option!r} in the group {group!r}" if is_group else f"no group {group!r}"
    if homes and (is_group or not near_match(group, library.groups())):
        return f"{missing}; {option!r} is in the group {' and '.join(map(repr, homes))}"
    return missing + (did_you_mean(option, library.options(group)) if is_group else did_you_mean(group, library.groups()))


def writer_of_default(group: str, option: str, documents: Mapping[str, Document], package: str = "") -> str:
    """`file:line` of the default that names a file of a group, the one for `package` where several do; empty where none does."""
    found = dict(reversed(list(writers_of_default(group, option, documents))))  # the first of a package counts
    return found.get(package) or next(reversed(found.values()), "")


def writers_of_default(group: str, option: str, documents: Mapping[str, Document]) -> Iterator[tuple[str, str]]:
    """The package that each default gives the file, and its `file:line`."""
    for document in documents.values():
        for index, default in enumerate(document.tree.get("defaults", ())):
            entries = default.items() if isinstance(default, Mapping) else [(str(default).rpartition("/")[0], default)]
            for key, value in entries:
                named, _, package = str(key).split(" ")[-1].partition("@")
                values = [str(each).partition("@")[0].rpartition("/")[2] for each in (value if isinstance(value, list) else [value])]
                if option in values and (canonical_group(named) == group or not isinstance(default, Mapping)):
                    yield package, document.where(f"defaults.{index}")
