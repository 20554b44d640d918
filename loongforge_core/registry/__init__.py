"""Which components exist: hooks for plugins, their discovery, and the registry."""

from loongforge_core.registry.discover import BrokenPlugin, Origin
from loongforge_core.registry.hooks import hookimpl
from loongforge_core.registry.registry import Published, Registry

__all__ = ["BrokenPlugin", "Origin", "Published", "Registry", "hookimpl"]
