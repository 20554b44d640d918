"""The installed distributions that bring plugins, found one by one, so that a damaged one hides no other."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions

from loongforge_core.errors import PluginError, did_you_mean
from loongforge_core.registry.hooks import ENTRY_POINT_GROUP

__all__ = ["InstalledPlugin", "Origin", "installed_plugins", "normalised", "package_of"]

GROUP_HEADER = f"[{ENTRY_POINT_GROUP}]"


@dataclass(frozen=True)
class Origin:
    """The installed distribution that something comes from."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class InstalledPlugin:
    """A distribution with entry points in our group, none of them loaded."""

    origin: Origin
    entry_points: tuple[EntryPoint, ...]
    """In the order of their names, each module once."""
    damage: Exception | None = None
    """Why its entry points cannot be read."""


def installed_plugins(without: Collection[str] = ()) -> tuple[list[InstalledPlugin], list[InstalledPlugin]]:
    """The plugins to load, in the order of their names, and those that are left out. Raises PluginError where one of these is no plugin."""
    plugins, unwanted = plugins_by_name(), {normalised(name) for name in without}
    for given in without:
        if normalised(given) not in plugins:
            near = did_you_mean(given, (plugin.origin.distribution for plugin in plugins.values()))
            raise PluginError(f"--without {given}: no plugin of this name is installed{near}")
    return (
        [plugin for name, plugin in sorted(plugins.items()) if name not in unwanted],
        [plugin for name, plugin in sorted(plugins.items()) if name in unwanted],
    )


def plugins_by_name() -> dict[str, InstalledPlugin]:
    """By normalised name; of two distributions that have the same, the one that comes first on the path.

    Read one by one: `importlib.metadata.entry_points` fails for all where one distribution's file is damaged.
    """
    found: dict[str, InstalledPlugin] = {}
    for distribution in distributions():
        if plugin := plugin_of(distribution):
            found.setdefault(normalised(plugin.origin.distribution), plugin)
    return found


def plugin_of(distribution: Distribution) -> InstalledPlugin | None:
    text = ""
    try:
        text = distribution.read_text("entry_points.txt") or ""
        if GROUP_HEADER not in text:
            return None
        ours = sorted((found for found in distribution.entry_points if found.group == ENTRY_POINT_GROUP), key=lambda found: found.name)
    except Exception as error:
        return InstalledPlugin(origin_of(distribution, "?"), (), error) if GROUP_HEADER in text else None
    modules = {found.value: found for found in reversed(ours)}
    once = tuple(found for found in ours if modules[found.value] is found)
    return InstalledPlugin(origin_of(distribution, package_of(once[0])), once) if once else None


def origin_of(distribution: Distribution, unnamed: str) -> Origin:
    try:
        return Origin(str(distribution.metadata["Name"] or unnamed), str(distribution.metadata["Version"] or ""))
    except Exception:  # there are as many ways to damage METADATA as there are to read it
        return Origin(unnamed, "")


def package_of(entry_point: EntryPoint) -> str:
    """The top-level package that it names."""
    return entry_point.value.partition(":")[0].partition(".")[0].strip()


def normalised(distribution: str) -> str:
    """As PEP 503 has it: `Loongforge.ViT` and `loongforge_vit` are the same."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
