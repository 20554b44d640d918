"""How much the references (`${...}`) of a tree come to, found before OmegaConf writes them out: ten lines can ask for gigabytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from loongforge_core.config.published import NAMED_CALLABLES

__all__ = ["oversized_reference"]

LARGEST = 100_000
"""Characters that all references come to, a value that is no text counting as ten."""
LONGEST_CHAIN = 40
"""References to references; OmegaConf takes some twenty of Python's thousand levels for each."""
MOST_HIDDEN = 10
"""References whose target follows from other values, so that they may lead anywhere: so few cannot make much out of what the others are."""

Key = tuple[str, ...]

REFERENCE = re.compile(r"\$\{\s*(?:(?P<resolver>[\w.]+)\s*:)?\s*(?P<path>[^${}]*)(?P<end>[${}]?)")
PURE = frozenset({*NAMED_CALLABLES, "oc.env"})
"""Resolvers that make a value of what is written, whatever the tree has."""


class TooMuch(Exception):
    pass


def oversized_reference(tree: Any) -> tuple[str, str] | None:
    """The key at which references come to too much, and what is wrong; None where they do not. Cycles are left to OmegaConf."""
    sizes = Sizes(tree)
    total = hidden = 0
    for key, text in texts(tree, ()):
        try:
            total += sizes.of(key) if "${" in text else 0
        except TooMuch as error:
            return ".".join(key), str(error)
        hidden += sum(is_hidden(match) for match in REFERENCE.finditer(text))
        if total > LARGEST:
            return ".".join(key), f"what its references come to, with those of the keys before it, is longer than {LARGEST} characters"
        if hidden > MOST_HIDDEN:
            return ".".join(key), f"more than {MOST_HIDDEN} references that lead where other values say; name the keys themselves"
    return None


def texts(node: Any, key: Key) -> Iterator[tuple[Key, str]]:
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, nested in node.items():
            yield from texts(nested, (*key, str(name)))
    elif isinstance(node, list):
        for index, nested in enumerate(node):
            yield from texts(nested, (*key, str(index)))


def is_hidden(match: re.Match[str]) -> bool:
    return match["end"] in "${" or bool(match["resolver"] and match["resolver"] not in PURE)


class Sizes:
    """Of everything in one tree, each found once."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.known: dict[Key, int] = {}

    def of(self, key: Key, through: tuple[Key, ...] = ()) -> int:
        """What the value comes to. Raises TooMuch for a chain that is too long."""
        if key in through:
            return 0
        if len(through) > LONGEST_CHAIN:
            raise TooMuch(f"more than {LONGEST_CHAIN} references, each to the next")
        if key not in self.known:
            node = self._at(key)
            own = sum(len(text) for _, text in texts(node, ())) + 10 * num_values(node)
            targets = [self._target(match["path"], at) for at, text in texts(node, key) for match in references_in(text)]
            self.known[key] = own + sum(self.of(target, (*through, key)) for target in targets)
        return self.known[key]

    def _target(self, path: str, at: Key) -> Key:
        """The key that is meant, or, where a reference stands above it, that one."""
        names = [name for name in re.split(r"[.\[\]]+", path.strip()) if name]
        dots = len(path.strip()) - len(path.strip().lstrip("."))
        key: Key = at[: max(len(at) - dots, 0)] if dots else ()
        for name in names:
            if isinstance(self._at(key), str):
                break
            key = (*key, name)
        return key

    def _at(self, key: Key) -> Any:
        here: Any = self.tree
        for name in key:
            if isinstance(here, list):
                here = here[int(name)] if name.isdecimal() and int(name) < len(here) else None
            else:
                here = here.get(name) if isinstance(here, Mapping) else None
        return here


def references_in(text: str) -> Iterator[re.Match[str]]:
    return (match for match in REFERENCE.finditer(text) if not match["resolver"] and not is_hidden(match))


def num_values(node: Any) -> int:
    if isinstance(node, Mapping):
        return 1 + sum(map(num_values, node.values()))
    return 1 + sum(map(num_values, node)) if isinstance(node, list) else 1
