"""Which components exist, and where each comes from."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from loongforge_core.component import SLOT_KEYS, ComponentSpec, DatasetSpec, Kind, Processor
from loongforge_core.errors import PluginError, did_you_mean
from loongforge_core.registry.announced import check_component, check_dataset
from loongforge_core.registry.builtin import BUILTIN_COMPONENTS
from loongforge_core.registry.discover import (
    BrokenPlugin,
    ConfigFolder,
    LeftOut,
    Origin,
    Plugin,
    Remark,
    config_folder,
    discover_plugins,
)
from loongforge_core.registry.reasons import reason_of

__all__ = ["PACKAGE_SCHEME", "Part", "Published", "Registry"]

Part = Literal["config", "model", "weights", "processor"]

PACKAGE_SCHEME = "pkg://"

SESSION = "this session"
"""Stands for the distribution of what is registered without packaging, in a notebook or a test."""


SpecT = TypeVar("SpecT", ComponentSpec, DatasetSpec)


@dataclass(frozen=True)
class Published(Generic[SpecT]):
    """A component or a data set, and the distribution that publishes it."""

    spec: SpecT
    origin: Origin


class Registry:
    """The components, data sets and YAML of the installed plugins, or whatever was registered by hand.

    `Registry.discover()` finds what is installed; `Registry()` holds core's own recipe only, and `register` adds to either.
    """

    def __init__(self) -> None:
        from loongforge_core import __version__

        core = Origin("loongforge_core", __version__)
        self._components: list[Published[ComponentSpec]] = [Published(spec, core) for spec in BUILTIN_COMPONENTS]
        self._datasets: list[Published[DatasetSpec]] = []
        self._config_folders: list[ConfigFolder] = []
        self._plugins: list[Plugin] = []
        self._broken: tuple[BrokenPlugin, ...] = ()
        self._left_out: tuple[LeftOut, ...] = ()
        self._remarks: tuple[Remark, ...] = ()

    @classmethod
    def discover(cls, *, without: Collection[str] = ()) -> Registry:
        """Everything that the installed plugins announce. A broken plugin is kept in `broken` and disturbs nobody.

        Distributions in `without` are not loaded, as if they were not installed. Raises PluginError where one of these is no plugin.
        """
        registry = cls()
        found = discover_plugins(without)
        registry._plugins, registry._broken = list(found.plugins), found.broken
        registry._left_out, registry._remarks = found.left_out, found.remarks
        for plugin in registry._plugins:
            registry._components += [Published(spec, plugin.origin) for spec in plugin.components]
            registry._datasets += [Published(spec, plugin.origin) for spec in plugin.datasets]
            registry._config_folders += plugin.config_folders
        return registry

    def register(self, spec: ComponentSpec | DatasetSpec, *, distribution: str = SESSION, version: str = "") -> None:
        """Adds a component or a data set without packaging. Registering the same one again changes nothing."""
        origin = Origin(distribution, version)
        try:
            if isinstance(spec, DatasetSpec):
                if (dataset := Published(check_dataset(spec), origin)) not in self._datasets:
                    self._datasets.append(dataset)
            elif (component := Published(check_component(spec), origin)) not in self._components:
                self._components.append(component)
        except (TypeError, ValueError) as error:
            raise PluginError(str(error)) from error

    def register_config_path(self, package: str | Path, *, distribution: str = SESSION, version: str = "") -> None:
        """Adds a package, or a folder, that holds YAML."""
        try:
            path = package if isinstance(package, Path) else config_folder(package)
        except (TypeError, ValueError, ImportError) as error:
            raise PluginError(str(error)) from error
        if not path.is_dir():
            raise PluginError(f"{path} is not a folder that holds YAML")
        folder = ConfigFolder(path, Origin(distribution, version))
        if folder not in self._config_folders:
            self._config_folders.append(folder)

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        return self._broken

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Plugins that `discover` was told to leave out."""
        return self._left_out

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What plugins that can be used do and should not."""
        return self._remarks

    @property
    def config_folders(self) -> tuple[ConfigFolder, ...]:
        return tuple(self._config_folders)

    def components(self, kind: Kind | None = None) -> Iterator[Published[ComponentSpec]]:
        """In the order of kind and name."""
        chosen = (published for published in self._components if kind in (None, published.spec.kind))
        yield from sorted(chosen, key=lambda published: (published.spec.kind, published.spec.name, published.origin.distribution))

    def datasets(self) -> Iterator[Published[DatasetSpec]]:
        yield from sorted(self._datasets, key=lambda published: (published.spec.name, published.origin.distribution))

    def component(self, kind: Kind, name: str) -> ComponentSpec:
        """The one component of this kind and name. Raises PluginError where there is none, or more than one."""
        found = [published for published in self._components if (published.spec.kind, published.spec.name) == (kind, name)]
        if found:
            refuse_duplicates(f"{kind} {name!r}", [published.origin for published in found])
            return found[0].spec
        if others := sorted({published.spec.kind for published in self._components if published.spec.name == name}):
            raise PluginError(
                f"{name!r} is {' and '.join(map(with_article, others))}, not {with_article(kind)}{did_you_mean(name, self._names(kind))}"
            )
        raise self._missing(kind, name, self._names(kind))

    def dataset(self, name: str) -> DatasetSpec:
        """The one data set of this name. Raises PluginError where there is none, or more than one."""
        found = [published for published in self._datasets if published.spec.name == name]
        if not found:
            raise self._missing("data set", name, (published.spec.name for published in self._datasets))
        refuse_duplicates(f"data set {name!r}", [published.origin for published in found])
        return found[0].spec

    def origin(self, spec: ComponentSpec | DatasetSpec) -> Origin:
        """The distribution that publishes a component or data set of this registry."""
        published: list[Published[Any]] = [*self._components, *self._datasets]
        for candidate in published:
            if candidate.spec == spec:
                return candidate.origin
        raise PluginError(f"{spec.name!r} is not registered here")

    def load(self, spec: ComponentSpec, part: Part) -> Any:
        """Imports one part of a component. Raises PluginError, with the import's own error as its cause, where that fails."""
        target: str = getattr(spec, part)
        if not target:
            raise PluginError(f"{spec.kind} {spec.name!r} has no {part}")
        origin = self.origin(spec)
        loaded = self._import(target, f"{part} of {spec.kind} {spec.name!r} ({origin})", origin)
        if part == "config":
            self._check_config(spec, loaded)
        if part == "processor" and not (isinstance(loaded, type) and issubclass(loaded, Processor)):
            raise PluginError(
                f"processor of {spec.kind} {spec.name!r} ({self.origin(spec)}) is {loaded!r}, expected a subclass of Processor"
            )
        return loaded

    def load_dataset(self, spec: DatasetSpec) -> Any:
        """Imports the function that writes a data set."""
        origin = self.origin(spec)
        return self._import(spec.prepare, f"data set {spec.name!r} ({origin})", origin)

    def resource(self, url: str) -> Path:
        """The file or folder that `pkg://package/path` names in the package of an installed plugin."""
        package, _, path = url.removeprefix(PACKAGE_SCHEME).partition("/")
        packages = {plugin.package for plugin in self._plugins}
        if package not in packages:
            if absent := [plugin for plugin in self._left_out if package in plugin.packages]:
                raise PluginError(f"{url} is in a plugin that was not loaded: {absent[0]}")
            raise PluginError(f"{url} names no installed plugin's package{did_you_mean(package, packages)}")
        if ".." in path.split("/"):
            raise PluginError(f"{url} leaves its package")
        from importlib.resources import files

        return Path(str(files(package).joinpath(path)))

    def fingerprint(self) -> str:
        """One line per plugin and version, left out or not, and per component registered by hand; equal on every rank of a run."""
        published: list[Published[Any]] = [*self._components, *self._datasets]
        plugins = {str(origin) for origin in [each.origin for each in published] + [folder.origin for folder in self._config_folders]}
        by_hand = {repr(each.spec) for each in published if each.origin.distribution == SESSION}
        return "\n".join([*sorted(plugins), *map(str, self._left_out), *sorted(by_hand)])

    def _names(self, kind: Kind) -> list[str]:
        return [published.spec.name for published in self._components if published.spec.kind == kind]

    def _missing(self, what: str, name: str, names: Iterable[str]) -> PluginError:
        message = f"no {what} {name!r} is installed{did_you_mean(name, names)}"
        suspects = [broken for broken in self._broken if name in broken.announced]
        suspects = suspects or [broken for broken in self._broken if not broken.announced]
        for broken in suspects:
            message += f"; {broken}" if name in broken.announced else f"; perhaps it is in a plugin that could not be loaded: {broken}"
        for absent in self._left_out:
            message += f"; {absent}"
        error = PluginError(message)
        exceptions = [broken.exception for broken in suspects]
        if len(exceptions) > 1:
            error.__cause__ = BaseExceptionGroup("plugins that could not be loaded", exceptions)
        elif exceptions:
            error.__cause__ = exceptions[0]
        return error

    def _import(self, target: str, what: str, origin: Origin) -> Any:
        module, _, attributes = target.partition(":")
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
                loaded: Any = importlib.import_module(module)
            for attribute in attributes.split("."):
                loaded = getattr(loaded, attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module may do anything
            raise PluginError(f"{what}: {target} could not be imported: {reason_of(error, origin.distribution)}") from error
        return loaded

    def _check_config(self, spec: ComponentSpec, loaded: Any) -> None:
        from loongforge_core import component

        bases = {
            "encoder": component.EncoderConfig,
            "projector": component.ProjectorConfig,
            "backbone": component.BackboneConfig,
            "recipe": component.RecipeConfig,
        }
        base = bases[spec.kind]
        what = f"config of {spec.kind} {spec.name!r} ({self.origin(spec)})"
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise PluginError(f"{what} is {loaded!r}, expected a subclass of {base.__name__}")
        if taken := sorted(SLOT_KEYS & set(loaded.model_fields)):
            raise PluginError(f"{what} declares {', '.join(taken)}: core takes {', '.join(sorted(SLOT_KEYS))} out of a slot itself")
        if loaded.__abstractmethods__:
            raise PluginError(f"{what} does not implement {', '.join(sorted(loaded.__abstractmethods__))}")


def refuse_duplicates(what: str, origins: list[Origin]) -> None:
    if len(origins) > 1 and len(set(origins)) == 1:
        raise PluginError(f"{what} is announced twice by {origins[0]}, which has to be mended there")
    if len(origins) > 1:
        both = " and ".join(str(origin) for origin in origins)
        raise PluginError(f"{what} is published by {both}: uninstall one of them, or leave one out with --without")


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
