"""The toy plugin's announcements, registered by hand as if it were installed."""

from __future__ import annotations

from loongforge_core.registry.registry import Registry
from toy_plugin import plugin

DISTRIBUTION = {"distribution": "toy_plugin", "version": "1.0"}


def toy_registry() -> Registry:
    registry = Registry()
    for spec in (*plugin.loongforge_components(), *plugin.loongforge_datasets()):
        registry.register(spec, **DISTRIBUTION)
    for package in plugin.loongforge_config_paths():
        registry.register_config_path(package, **DISTRIBUTION)
    return registry
