"""Loads the plugins one by one. A broken one is described, never raised: it must not take the others down."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

import pluggy

from loongforge_core.component import SUPPORTED_API_VERSIONS, ComponentSpec, DatasetSpec, Kind
from loongforge_core.registry import hooks

__all__ = ["BrokenPlugin", "ConfigFolder", "Origin", "Plugin", "check_component", "check_dataset", "config_folder", "discover_plugins"]

KINDS: tuple[str, ...] = get_args(Kind)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Origin:
    """The installed distribution that something comes from."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class ConfigFolder:
    """A folder of published YAML."""

    path: Path
    origin: Origin


@dataclass(frozen=True)
class Plugin:
    """What one entry point announced."""

    origin: Origin
    package: str
    """Its top-level package, whose files `pkg://` may name."""
    components: tuple[ComponentSpec, ...] = ()
    datasets: tuple[DatasetSpec, ...] = ()
    config_folders: tuple[ConfigFolder, ...] = ()


@dataclass(frozen=True)
class BrokenPlugin:
    """An installed plugin that could not be used, and why."""

    distribution: str
    version: str
    entry_point: str
    reason: str
    exception: BaseException
    announced: tuple[str, ...] = ()
    """Names of the components that it announced before it was refused; empty where it did not get that far."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip() + f" is broken: {self.reason}"


class UnsupportedVersion(ValueError):
    """The plugin was written for another version of the component page."""


def discover_plugins() -> tuple[list[Plugin], list[BrokenPlugin]]:
    """Every installed plugin, in the order of distribution and entry point."""
    plugins: list[Plugin] = []
    broken: list[BrokenPlugin] = []
    for entry_point in sorted(entry_points(group=hooks.ENTRY_POINT_GROUP), key=lambda found: (_origin(found).distribution, found.name)):
        loaded = _load(entry_point)
        if isinstance(loaded, Plugin):
            plugins.append(loaded)
        else:
            broken.append(loaded)
    return plugins, broken


def check_component(spec: object) -> ComponentSpec:
    """The specification itself, or a TypeError or ValueError that says what is wrong with it."""
    if not isinstance(spec, ComponentSpec):
        raise TypeError(f"loongforge_components() gave {spec!r}, expected ComponentSpec objects")
    _check_announcement(spec.name, spec.api_version, {"config": spec.config})
    if spec.kind not in KINDS:
        raise ValueError(f"component {spec.name!r} is of kind {spec.kind!r}, expected one of {', '.join(KINDS)}")
    optional = {"model": spec.model, "weights": spec.weights, "processor": spec.processor}
    _check_announcement(spec.name, spec.api_version, {part: target for part, target in optional.items() if target})
    if spec.kind == "encoder" and not spec.modalities:
        raise ValueError(f"encoder {spec.name!r} names no modality")
    return spec


def check_dataset(spec: object) -> DatasetSpec:
    """The specification itself, or a TypeError or ValueError that says what is wrong with it."""
    if not isinstance(spec, DatasetSpec):
        raise TypeError(f"loongforge_datasets() gave {spec!r}, expected DatasetSpec objects")
    _check_announcement(spec.name, spec.api_version, {"prepare": spec.prepare})
    return spec


def config_folder(package: object) -> Path:
    """The folder of a package that holds YAML; finding it imports the packages above it, not the package itself."""
    if not isinstance(package, str):
        raise TypeError(f"loongforge_config_paths() gave {package!r}, expected names of packages")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"loongforge_config_paths() names {package!r}, which is not a package (folder)")
    return Path(next(iter(spec.submodule_search_locations)))


def _load(entry_point: EntryPoint) -> Plugin | BrokenPlugin:
    origin = _origin(entry_point)
    announced: list[str] = []
    try:
        return _announcements(entry_point, origin, announced)
    except (Exception, SystemExit) as error:  # whatever a stranger's module does, short of the user's Ctrl-C
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        reason = str(error) if isinstance(error, UnsupportedVersion) else reason
        return BrokenPlugin(origin.distribution, origin.version, entry_point.name, reason, error, tuple(announced))


def _announcements(entry_point: EntryPoint, origin: Origin, announced: list[str]) -> Plugin:
    # A manager of its own per plugin: one that raises in a hook spoils no other's answer.
    manager = pluggy.PluginManager("loongforge")
    manager.add_hookspecs(hooks)
    manager.register(entry_point.load(), name=entry_point.name)
    manager.check_pending()
    if not manager.get_hookcallers(manager.get_plugin(entry_point.name)):
        raise TypeError(f"{entry_point.value} implements no hook; decorate one with hookimpl")
    components = _flat(manager.hook.loongforge_components)
    datasets = _flat(manager.hook.loongforge_datasets)
    announced.extend(name for spec in (*components, *datasets) if isinstance(name := getattr(spec, "name", None), str))
    folders = [ConfigFolder(config_folder(package), origin) for package in _flat(manager.hook.loongforge_config_paths)]
    return Plugin(
        origin=origin,
        package=entry_point.module.partition(".")[0],
        components=tuple(check_component(spec) for spec in components),
        datasets=tuple(check_dataset(spec) for spec in datasets),
        config_folders=tuple(folders),
    )


def _flat(hook: Callable[[], list[Any]]) -> list[Any]:
    found: list[Any] = []
    for answer in hook():
        if isinstance(answer, str) or not isinstance(answer, Iterable):
            raise TypeError(f"a hook gave {answer!r}, expected a list")
        found.extend(answer)
    return found


def _check_announcement(name: str, api_version: int, targets: dict[str, str]) -> None:
    if api_version not in SUPPORTED_API_VERSIONS:
        low, high = SUPPORTED_API_VERSIONS[0], SUPPORTED_API_VERSIONS[-1]
        supported = str(low) if low == high else f"{low} to {high}"
        raise UnsupportedVersion(f"{name!r} is written for API version {api_version}, this loongforge_core supports {supported}")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: letters, digits, '.', '_' and '-'")
    for part, target in targets.items():
        if not isinstance(target, str) or not TARGET.fullmatch(target):
            raise ValueError(f"{part} of {name!r} is {target!r}, expected 'package.module:attribute'")


def _origin(entry_point: EntryPoint) -> Origin:
    distribution = entry_point.dist
    if distribution is None:
        return Origin(entry_point.module.partition(".")[0], "")
    return Origin(distribution.name, distribution.version)
