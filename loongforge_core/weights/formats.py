"""Which published format a composition has: one table for the whole, or one for every slot."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from loongforge_core.component import ComponentConfig, ComponentSpec
from loongforge_core.config.composition import Composition
from loongforge_core.config.slot_names import FOUNDATION
from loongforge_core.errors import PluginError
from loongforge_core.layers.interfaces import Component
from loongforge_core.registry.registry import Registry
from loongforge_core.weights.config_keys import Constant, flatten
from loongforge_core.weights.holding import holdings
from loongforge_core.weights.rules import TENSOR, Copy
from loongforge_core.weights.table import Table

__all__ = ["slot_table", "whole_table"]

logger = logging.getLogger(__name__)


def slot_table(spec: ComponentSpec, component: Component[Any], registry: Registry, names: Iterable[str] | None = None) -> Table:
    """The table of a component's own folder; where nothing of it is published alone, its config is stored, and its tensors by our names.

    `names` are those of its tensors on all ranks; by default this rank has all of it.
    """
    config = component.config
    published = component_table(spec, config, registry)
    if published is None:
        known = holdings({"": component}) if names is None else names
        published = Table(rules=tuple(Copy(name, name, parts=TENSOR) for name in sorted(known)))
    if published.model_type:
        return published
    ours = (("component", spec.name), *((f"config.{name}", value) for name, value in flatten(config.model_dump(mode="json"))))
    return replace(published, keys=tuple(Constant(name, value) for name, value in ours))


def component_table(spec: ComponentSpec, config: ComponentConfig, registry: Registry) -> Table | None:
    if not spec.weights:
        return None
    table = registry.load(spec, "weights")(config)
    if not isinstance(table, Table):
        raise PluginError(f"{spec.weights} of {spec.kind} {spec.name!r} returned {type(table).__name__}, expected a Table")
    return table


def whole_table(composition: Composition, registry: Registry) -> Table | None:
    """The table of a folder for the whole model, our names behind `<slot>.`; None where this mix has no published format.

    A component alone has its own format. Otherwise the recipe decides; under a recipe that publishes nothing itself, the first one whose
    behaviour is the default's and whose format has room for this mix.
    """
    tables = {name: component_table(slot.spec, slot.config, registry) for name, slot in composition.slots.items()}
    if len(tables) == 1:
        ((name, alone),) = tables.items()
        return alone_under(alone, name) if alone and alone.model_type else None
    known: dict[str, Table] = {name: table for name, table in tables.items() if table is not None}
    if known.keys() != tables.keys() or FOUNDATION not in known:
        return None
    configs = {name: slot.config for name, slot in composition.slots.items()}
    for recipe in recipes(composition, registry):
        table: Table | None = registry.load(recipe, "weights")(configs, known)
        if table is not None:
            return table
    return None


def alone_under(table: Table, slot: str) -> Table:
    """The same format, with our names behind the slot's."""
    part = table.under(theirs="", ours=slot, section="")
    return replace(
        table,
        rules=part.rules,
        keys=tuple(key.under("", slot) for key in table.keys),
        unpublished=part.unpublished,
        carried=part.carried,
        alternatives={name: alone_under(other, slot) for name, other in table.alternatives.items()},
    )


def recipes(composition: Composition, registry: Registry) -> list[ComponentSpec]:
    """Those whose format may be this composition's."""
    if composition.recipe.weights:
        return [composition.recipe]
    if not composition.recipe_config.behaves_as_default:
        return []
    publishing = [published.spec for published in registry.components("recipe") if published.spec.weights]
    return [spec for spec in publishing if is_like_default(spec, registry)]


def is_like_default(spec: ComponentSpec, registry: Registry) -> bool:
    """Nobody selected this recipe: where it is broken, that is no more than a warning (I6)."""
    try:
        return bool(registry.load(spec, "config").behaves_as_default)
    except PluginError as error:
        logger.warning("%s", error)
        return False
