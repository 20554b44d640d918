"""Loads the plugins one by one. A broken one is described, never raised: it must not take the others down."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from loongforge_core.component import ComponentSpec, DatasetSpec
from loongforge_core.registry import hooks
from loongforge_core.registry.announced import UnsupportedVersion, check_component, check_dataset
from loongforge_core.registry.distributions import Origin, installed_plugins, package_of
from loongforge_core.registry.reasons import one_line, reason_of

__all__ = [
    "BrokenPlugin",
    "ConfigFolder",
    "Discovered",
    "LeftOut",
    "Origin",
    "Plugin",
    "Remark",
    "config_folder",
    "discover_plugins",
]


LONGEST_SAID = 80
"""Bytes of what a plugin prints that are quoted."""


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


@dataclass(frozen=True)
class LeftOut:
    """A plugin that was not loaded because it was not wanted."""

    origin: Origin
    packages: frozenset[str]

    def __str__(self) -> str:
        return f"{self.origin} is left out (--without)"


@dataclass(frozen=True)
class Remark:
    """What a plugin that can be used does and should not."""

    origin: Origin
    entry_point: str
    text: str

    def __str__(self) -> str:
        return f"{self.origin} {self.text}"


@dataclass(frozen=True)
class Discovered:
    """What is installed, in the order of distribution and entry point."""

    plugins: tuple[Plugin, ...]
    broken: tuple[BrokenPlugin, ...]
    left_out: tuple[LeftOut, ...]
    remarks: tuple[Remark, ...]


def discover_plugins(without: Collection[str] = ()) -> Discovered:
    """Every installed plugin, but for the distributions that shall be left out. Raises PluginError where one of these is no plugin."""
    plugins: list[Plugin] = []
    broken: list[BrokenPlugin] = []
    remarks: list[Remark] = []
    wanted, unwanted = installed_plugins(without)
    for installed in wanted:
        if installed.damage:
            broken.append(damaged(installed.origin, installed.damage))
        for entry_point in installed.entry_points:
            loaded = load(entry_point, installed.origin, remarks)
            if isinstance(loaded, Plugin):
                plugins.append(loaded)
            else:
                broken.append(loaded)
    left_out = [LeftOut(plugin.origin, frozenset(map(package_of, plugin.entry_points))) for plugin in unwanted]
    return Discovered(tuple(plugins), tuple(broken), tuple(left_out), tuple(remarks))


def damaged(origin: Origin, error: Exception) -> BrokenPlugin:
    reason = f"its entry_points.txt cannot be read: {reason_of(error, origin.distribution)}"
    return BrokenPlugin(origin.distribution, origin.version, "?", reason, error)


def config_folder(package: object) -> Path:
    """The folder of a package that holds YAML; finding it imports the packages above it, not the package itself."""
    if not isinstance(package, str):
        raise TypeError(f"loongforge_config_paths() gave {package!r}, expected names of packages")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"loongforge_config_paths() names {package!r}, which is not a package (folder)")
    return Path(next(iter(spec.submodule_search_locations)))


def load(entry_point: EntryPoint, origin: Origin, remarks: list[Remark]) -> Plugin | BrokenPlugin:
    announced: list[str] = []
    had_torch = "torch" in sys.modules
    with overheard() as printed:
        try:
            loaded: Plugin | BrokenPlugin = announcements(entry_point, origin, announced)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a stranger's module does, short of the user's Ctrl-C
            unsupported = isinstance(error, UnsupportedVersion)
            reason = one_line(error) if unsupported else reason_of(error, origin.distribution)
            loaded = BrokenPlugin(origin.distribution, origin.version, entry_point.name, reason, error, tuple(announced))
    if printed.beginning:
        said = one_line(printed.beginning.decode(errors="replace"))
        remarks.append(Remark(origin, entry_point.name, f"prints when it is loaded, which is sent to standard error: {said!r}"))
    if "torch" in sys.modules and not had_torch:
        why = "imports torch when it is loaded, for which every command waits; only the modules that its specifications name should"
        remarks.append(Remark(origin, entry_point.name, why))
    return loaded


class Overheard(io.RawIOBase):
    """Passes on to standard error, and keeps the beginning."""

    beginning = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        sys.stderr.write(bytes(data).decode(errors="replace"))
        self.beginning = (self.beginning + bytes(data))[:LONGEST_SAID]
        return len(data)


@contextlib.contextmanager
def overheard() -> Iterator[Overheard]:
    """Standard output is for results, such as JSON: what a plugin prints meanwhile goes elsewhere."""
    heard = Overheard()
    with contextlib.redirect_stdout(io.TextIOWrapper(heard, encoding="utf-8", write_through=True)):  # type: ignore[type-var]
        yield heard


def announcements(entry_point: EntryPoint, origin: Origin, announced: list[str]) -> Plugin:
    # A manager of its own per plugin: one that raises in a hook spoils no other's answer.
    manager = pluggy.PluginManager("loongforge")
    manager.add_hookspecs(hooks)
    manager.register(module(entry_point), name=entry_point.name)
    manager.check_pending()
    if not manager.get_hookcallers(manager.get_plugin(entry_point.name)):
        raise TypeError(f"{entry_point.value} implements no hook; decorate one with hookimpl")
    components = flat(manager.hook.loongforge_components)
    announced.extend(names_of(components))
    datasets = flat(manager.hook.loongforge_datasets)
    announced.extend(names_of(datasets))
    folders = [ConfigFolder(config_folder(package), origin) for package in flat(manager.hook.loongforge_config_paths)]
    return Plugin(
        origin=origin,
        package=package_of(entry_point),
        components=tuple(check_component(spec) for spec in components),
        datasets=tuple(check_dataset(spec) for spec in datasets),
        config_folders=tuple(folders),
    )


def module(entry_point: EntryPoint) -> Any:
    if not EntryPoint.pattern.match(entry_point.value):
        raise ValueError(f"the entry point {entry_point.value!r} is no 'package.module'")
    return entry_point.load()


def flat(hook: Any) -> list[Any]:
    found: list[Any] = []
    for answer in hook():
        if isinstance(answer, str | Mapping) or not isinstance(answer, Iterable):
            raise TypeError(f"{hook.name}() gave {answer!r}, expected a list")
        found.extend(answer)
    return found


def names_of(specs: Iterable[Any]) -> list[str]:
    return [name for spec in specs if isinstance(name := getattr(spec, "name", None), str)]
