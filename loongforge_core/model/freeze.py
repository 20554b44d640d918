"""Freezing: whole slots, or parameters by name pattern. The only place that does it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from loongforge_core.config.settings import SlotSettings
from loongforge_core.errors import ConfigError, Issue, did_you_mean
from loongforge_core.layers.interfaces import Component

__all__ = ["freeze"]


def freeze(components: Mapping[str, Component[Any]], settings: Mapping[str, SlotSettings]) -> None:
    """Turns gradients off where the slots' settings say so. Raises ConfigError for every pattern that matches nothing."""
    issues = [issue for slot, component in components.items() for issue in freeze_slot(slot, component, settings[slot].freeze)]
    if issues:
        raise ConfigError(issues)


def freeze_slot(slot: str, component: Component[Any], frozen: bool | list[str]) -> list[Issue]:
    patterns = (["*"] if frozen else []) if isinstance(frozen, bool) else frozen
    names = [name for name, _ in component.named_parameters()]
    unmatched = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    for name, parameter in component.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    return [
        Issue(f"freezing pattern {pattern!r} matches no parameter of the slot{did_you_mean(pattern, names)}", f"model.{slot}.freeze")
        for pattern in unmatched
    ]
