"""Builds any registered component from its validated config."""

from __future__ import annotations

from typing import Any

import torch

from loongforge_core.component import ComponentConfig, ComponentSpec
from loongforge_core.errors import PluginError
from loongforge_core.layers.interfaces import BuildContext, Component
from loongforge_core.registry.registry import Registry

__all__ = ["AutoModel"]


class AutoModel:
    """Not to be instantiated: `AutoModel.from_config`."""

    @staticmethod
    def from_config(
        config: ComponentConfig, context: BuildContext, registry: Registry, *, spec: ComponentSpec | None = None
    ) -> Component[Any]:
        """The component that `config` belongs to, its parameters allocated on `context.device` and not yet filled.

        `spec` says which component, where several share one config class; otherwise the class tells.
        """
        spec = spec or spec_of(config, registry)
        module_class = registry.load(spec, "model")
        with torch.device(context.device):
            component = module_class(config, context)
        if not isinstance(component, Component):
            raise PluginError(f"{spec.model} of component {spec.name!r} is not a subclass of loongforge_core.layers.interfaces.Component")
        for parameter in component.parameters():
            # Not `component.to`: it would round buffers too, such as the frequencies of rotary positions.
            parameter.data = parameter.data.to(context.dtype)
        return component


def spec_of(config: ComponentConfig, registry: Registry) -> ComponentSpec:
    name = f"{type(config).__module__}:{type(config).__qualname__}"
    found = [published.spec for published in registry.components() if published.spec.config == name]
    if len(found) != 1:
        those = ", ".join(f"{spec.kind} {spec.name}" for spec in found) or "none"
        raise PluginError(f"a component with config class {name} was asked for; registered: {those}")
    return found[0]
