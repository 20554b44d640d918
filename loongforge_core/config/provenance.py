"""Who wrote a key last: key -> `file:line`, or the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loongforge_core.config.document import Document

__all__ = ["COMMAND_LINE", "Provenance"]

COMMAND_LINE = "command line"


class Provenance:
    """The last writer of every key. Writers are added in the order in which they are merged."""

    def __init__(self, root: str = "") -> None:
        self._root = root
        """Where the configuration as a whole comes from."""
        self._writers: dict[str, str] = {}

    def add_document(self, document: Document, package: str) -> None:
        """A file whose keys were merged under `package` (empty: at the root)."""
        for key in document.lines:
            if key.partition(".")[0] != "defaults":
                self._writers[f"{package}.{key}" if package else key] = document.where(key)

    def add_package(self, package: str, where: str) -> None:
        """The default, at `where`, that puts a file under `package`, and so under the keys above it, which may be written nowhere else."""
        if package and where:
            self._writers[package] = where
            while package := package.rpartition(".")[0]:
                self._writers.setdefault(package, where)

    def add_override(self, key: str, value: Any) -> None:
        """A value given on the command line."""
        above = key
        while above := above.rpartition(".")[0]:
            if not any(written.startswith(f"{above}.") for written in self._writers):
                self._writers[above] = COMMAND_LINE  # it was no mapping until now
        self._writers[key] = COMMAND_LINE
        for nested in dotted(value, f"{key}."):
            self._writers[nested] = COMMAND_LINE

    @property
    def keys(self) -> frozenset[str]:
        """Every key that anybody wrote, dotted."""
        return frozenset(self._writers)

    def where(self, key: str) -> str:
        """Of the key, or of the nearest key above it."""
        while key:
            if key in self._writers:
                return self._writers[key]
            key = key.rpartition(".")[0]
        return self._root


def dotted(value: Any, prefix: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, nested in value.items():
            yield f"{prefix}{key}"
            yield from dotted(nested, f"{prefix}{key}.")
