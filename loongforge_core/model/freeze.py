"""Freezing: whole slots, or parameters by name pattern. The only place that does it.

A parameter's name is the one that it has in the whole model: a pipeline stage calls its own first layer 0, whichever it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import distributed

from loongforge_core.config.settings import SlotSettings
from loongforge_core.errors import ConfigError, Issue, did_you_mean
from loongforge_core.layers.interfaces import Component
from loongforge_core.parallel.bookkeeping import described_parameters

__all__ = ["check_patterns", "freeze"]

Components = Mapping[str, Component[Any]]


def freeze(components: Components, settings: Mapping[str, SlotSettings]) -> None:
    """Turns gradients off where the slots' settings say so."""
    for slot, component in components.items():
        if settings[slot].freeze is True:
            component.requires_grad_(False)
            continue
        if named := patterns(settings[slot]):
            for part in described_parameters(component):
                if any(fnmatchcase(part.key, pattern) for pattern in named):
                    part.data.requires_grad_(False)


def patterns(settings: SlotSettings) -> Sequence[str]:
    return settings.freeze if isinstance(settings.freeze, list) else ()


def check_patterns(parts: Sequence[Components], settings: Mapping[str, SlotSettings], pipeline: Any = None) -> None:
    """Raises ConfigError for every pattern that matches no parameter of its slot, here or on another rank of the group `pipeline`."""
    named = {slot: found for slot in settings if (found := patterns(settings[slot]))}
    if not named:  # on every rank
        return
    here = {
        slot: {part.key for component in parts if slot in component for part in described_parameters(component[slot])} for slot in named
    }
    stages = [here]
    if pipeline is not None and pipeline.size() > 1:
        stages = [here] * pipeline.size()
        distributed.all_gather_object(stages, here, group=pipeline)
    names = {slot: set().union(*(stage[slot] for stage in stages)) for slot in named}
    issues = [
        Issue(
            f"freezing pattern {pattern!r} matches no parameter of the slot{did_you_mean(pattern, sorted(names[slot]))}",
            f"model.{slot}.freeze",
        )
        for slot, wanted in named.items()
        for pattern in wanted
        if not any(fnmatchcase(name, pattern) for name in names[slot])
    ]
    if issues:
        raise ConfigError(issues)
