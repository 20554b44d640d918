"""What is called how in a new plugin, and which names are taken."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

from loongforge_core.component import Kind
from loongforge_core.errors import InputError
from loongforge_core.registry.registry import Registry

__all__ = ["PluginNames", "plugin_names", "refuse_taken"]

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
MODALITY = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
OURS = "loongforge_"
"""May stand before the name of a distribution, as in those of this project; the component is called what stands behind it."""


@dataclass(frozen=True)
class PluginNames:
    """All follow from the name that the author gave, and the modality of an encoder."""

    distribution: str
    """What pip calls it, and its folder is called."""
    package: str
    """What Python imports."""
    component: str
    """What YAML calls it."""
    prefix: str
    """What its classes' names begin with."""
    module: str
    """The class of its module."""
    modality: str


def plugin_names(name: str, kind: Kind, modality: str) -> PluginNames:
    """Raises InputError for what is no name."""
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a plugin: expected lower-case letters, digits, '_' and '-'{suggestion(name)}")
    if not MODALITY.fullmatch(modality):
        raise InputError(f"{modality!r} is no name for a modality: expected lower-case letters, digits and '_', such as 'image' or 'radar'")
    package = name.replace("-", "_")
    component = package.removeprefix(OURS)
    prefix = "".join(part.capitalize() for part in component.split("_"))
    ending = "Model" if kind == "backbone" else kind.capitalize()
    module = prefix if prefix.endswith(ending) else f"{prefix}{ending}"
    return PluginNames(name, package, component, prefix, module, modality)


def refuse_taken(names: PluginNames, kind: Kind, registry: Registry) -> None:
    """Importing it must give the new package, installing it must replace no other, and YAML must mean one component by its name.

    Raises InputError for a name that is taken.
    """
    name, package = names.distribution, names.package
    other = "" if package.startswith(OURS) else f"; expected another, such as {OURS}{package}"
    if keyword.iskeyword(package) or package in sys.stdlib_module_names:
        raise InputError(f"{name!r} is a name of Python's own{other}")
    if installed := installed_version(name):
        raise InputError(f"{installed} is installed already{other}")
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
        raise InputError(f"`import {package}` finds {found.origin} already{other}")
    for published in registry.components(kind):
        if published.spec.name.replace("-", "_") == names.component:
            raise InputError(f"{kind} {published.spec.name!r} is published by {published.origin} already; expected another name")


def installed_version(name: str) -> str:
    try:
        return f"{name} {distribution(name).version}"
    except PackageNotFoundError:
        return ""


def suggestion(name: str) -> str:
    near = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
    return f"; did you mean {near!r}?" if NAME.fullmatch(near) else ""
