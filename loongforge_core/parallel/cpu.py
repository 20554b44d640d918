"""Makes Megatron-Core run without an accelerator.

`prepare_megatron()` installs an import hook. On a CPU every `megatron.core` module gets, right after it ran, a stand-in
for the name `torch` and whatever else `redirections.py` lists for it; the rest of the process keeps the real torch. With an accelerator
only `repairs.py` applies.

torch is imported when Megatron is, not before, so that a package can prepare Megatron in its `__init__` at no cost.
"""

from __future__ import annotations

import ast
import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from packaging.specifiers import SpecifierSet

from loongforge_core.errors import VersionError
from loongforge_core.parallel.redirections import MEGATRON, REDIRECTIONS, SILENCED_LOGS, SILENCED_WARNINGS, in_megatron
from loongforge_core.parallel.repairs import REPAIRS

__all__ = ["TESTED_VERSIONS", "has_accelerator", "hide_accelerators", "prepare_megatron"]

TESTED_VERSIONS = ">=0.16.1,<0.20"


def prepare_megatron() -> None:
    """Call before `megatron.core` is used, as often as you like; modules imported earlier are brought up to date.

    Raises `VersionError` when Megatron-Core is missing or outside the tested range.
    """
    if any(isinstance(finder, MegatronFinder) for finder in sys.meta_path):
        return
    check_version()
    sys.meta_path.insert(0, MegatronFinder())
    earlier = [module for name, module in sys.modules.items() if in_megatron(name)]
    if earlier and not has_accelerator():
        silence()
    rebind(earlier, [change for module in earlier for change in adapt(module)])


@functools.cache
def has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available()


def hide_accelerators() -> None:
    """From this process, before it has looked for them, and from those that it starts: it goes on as on a machine without any."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CUDA reads it when it is first called, and torch has nothing else for it
    has_accelerator.cache_clear()


# ---- how the table is applied ---------------------------------------------------------------------------------------


class MegatronFinder(MetaPathFinder):
    """Finds what the other finders find, and has Megatron's modules adapted when they are loaded."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not in_megatron(fullname):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec and type(spec.loader) is SourceFileLoader:
            spec.loader = MegatronLoader(spec.loader.name, spec.loader.path)
        return spec


class MegatronLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        if not has_accelerator():
            silence()
        super().exec_module(module)
        adapt(module)


def adapt(module: ModuleType) -> list[tuple[Any, Any]]:
    """Applies the tables to a module that has just run; returns what changed, as pairs of old and new."""
    table = REPAIRS if has_accelerator() else REPAIRS + REDIRECTIONS
    changes = []
    for row in table:
        if row.where == module.__name__:
            old = getattr(module, row.name, None)
            changes.append((old, row.make(old)))
            setattr(module, row.name, changes[-1][1])
    if not has_accelerator() and "torch" in vars(module):
        vars(module)["torch"] = torch_without_cuda()
    return changes


def rebind(modules: Iterable[ModuleType], changes: Iterable[tuple[Any, Any]]) -> None:
    """For modules that ran before the hook: names they imported from one another, and functions already compiled."""
    new = {id(before): after for before, after in changes if before is not None}
    for module in modules:
        for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
            for name, value in list(vars(owner).items()):
                if id(value) in new:
                    setattr(owner, name, new[id(value)])
                elif isinstance(value, FunctionType) and not has_accelerator():
                    setattr(owner, name, getattr(value, "_torchdynamo_orig_callable", value))


class StandIn(ModuleType):
    """A module in which some names mean something else."""

    def __init__(self, module: ModuleType, names: dict[str, Any]) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names)
        self.__wrapped__ = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


@functools.cache
def torch_without_cuda() -> ModuleType:
    import torch

    def made_for(owner: Any) -> dict[str, Any]:
        where = "torch.Tensor" if owner is torch.Tensor else owner.__name__
        return {row.name: row.make(getattr(owner, row.name)) for row in REDIRECTIONS if row.where == where}

    for name, method in made_for(torch.Tensor).items():
        setattr(torch.Tensor, name, method)
    return StandIn(torch, {**made_for(torch), "cuda": StandIn(torch.cuda, made_for(torch.cuda))})


def silence() -> None:
    """Said before each module runs: pytest forgets filters between tests. Adding one that is there changes nothing."""
    for message, category, module in SILENCED_WARNINGS:
        warnings.filterwarnings("ignore", message, category, module)
    for logger, message in SILENCED_LOGS:
        logging.getLogger(logger).addFilter(is_not(message))


@functools.cache
def is_not(message: str) -> Callable[[logging.LogRecord], bool]:
    return lambda record: record.msg != message


# ---- the version ----------------------------------------------------------------------------------------------------


def check_version() -> None:
    advice = f"tested is {TESTED_VERSIONS}: pip install 'megatron-core{TESTED_VERSIONS}'"
    try:
        spec = find_spec(MEGATRON)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise VersionError(f"megatron-core is not installed; {advice}")
    folder = Path(spec.origin).parent
    version = read_version(folder)
    if not SpecifierSet(TESTED_VERSIONS).contains(version, prereleases=True):
        raise VersionError(f"megatron-core {version} (in {folder}) was found; {advice}")


def read_version(folder: Path) -> str:
    """The version of the code that will be imported; installed metadata may describe another copy (PYTHONPATH wins)."""
    values: dict[str, Any] = {}
    for statement in ast.parse((folder / "package_info.py").read_text()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                values[name] = value
    return "{MAJOR}.{MINOR}.{PATCH}{PRE_RELEASE}".format_map(values)
