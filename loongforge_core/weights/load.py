"""Weights into a composition: from an export or a published folder of the whole, or slot by slot from `pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError, did_you_mean
from loongforge_core.layers.interfaces import Component
from loongforge_core.registry.registry import Registry
from loongforge_core.weights.export_hf import MANIFEST
from loongforge_core.weights.folder import read_json
from loongforge_core.weights.formats import slot_table, whole_table
from loongforge_core.weights.holding import holdings
from loongforge_core.weights.import_hf import import_hf

__all__ = ["import_model", "load_pretrained"]


def import_model(
    folder: Path | str, components: Mapping[str, Component[Any]], composition: Composition, registry: Registry
) -> frozenset[str]:
    """Fills a whole model's components, given by slot, from a folder in its published format, or from an export of slots.

    To be called on every rank. Returns the names of the tensors here that were filled, behind their slots'.
    """
    path = Path(folder)
    if (path / MANIFEST).is_file() and (tree := read_json(path / MANIFEST)).get("layout") == "slots":
        check_slots(path, tree, composition)
        return load_slots({name: path / name for name in composition.slots}, components, composition, registry)
    table = whole_table(composition, registry)
    if table is None:
        raise WeightsError(
            f"{path}: a model of {', '.join(slot.spec.name for slot in composition.slots.values())} under the recipe "
            f"{composition.recipe.name!r} has no published format, so it cannot be read from one folder; name a folder per slot: "
            f"model.<slot>.pretrained"
        )
    return import_hf(path, components, table, {name: slot.config for name, slot in composition.slots.items()})


def load_pretrained(components: Mapping[str, Component[Any]], composition: Composition, registry: Registry) -> frozenset[str]:
    """Fills every slot that names a `pretrained` folder, and returns as `import_model` does. To be called on every rank."""
    named = {name: Path(slot.settings.pretrained) for name, slot in composition.slots.items() if slot.settings.pretrained}
    return load_slots(named, components, composition, registry)


def load_slots(
    folders: Mapping[str, Path], components: Mapping[str, Component[Any]], composition: Composition, registry: Registry
) -> frozenset[str]:
    """Fills the slots that this rank has from folders in their own formats."""
    slots = composition.slots
    names = names_everywhere({name: components[name] for name in folders if name in components and not slots[name].spec.weights})
    filled: set[str] = set()
    for name, folder in folders.items():
        if name in components:
            table = slot_table(slots[name].spec, components[name], registry, names.get(name))
            filled.update(f"{name}.{tensor}" for tensor in import_hf(folder, components[name], table, slots[name].config))
    return frozenset(filled)


def names_everywhere(components: Mapping[str, Component[Any]]) -> dict[str, set[str]]:
    """Names of tensors by slot, other pipeline stages' included."""
    ranks: list[dict[str, list[str]]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(ranks, {name: list(holdings({"": component})) for name, component in components.items()})
    names: dict[str, set[str]] = {}
    for name, found in (item for rank in ranks for item in rank.items()):
        names.setdefault(name, set()).update(found)
    return names


def check_slots(path: Path, tree: Mapping[str, Any], composition: Composition) -> None:
    stored = {name: slot.get("component") for name, slot in tree.get("slots", {}).items()}
    ours = {name: slot.spec.name for name, slot in composition.slots.items()}
    problems = [
        f"{name} holds {stored[name]!r}, but model.{name} is {ours[name]!r}"
        for name in stored.keys() & ours.keys()
        if stored[name] != ours[name]
    ]
    problems += [f"{name} is in the folder, but not in the model{did_you_mean(name, ours)}" for name in stored.keys() - ours.keys()]
    problems += [f"{name} is in the model, but not in the folder{did_you_mean(name, stored)}" for name in ours.keys() - stored.keys()]
    if problems:
        raise WeightsError("\n".join([f"{path / MANIFEST} does not fit the model:", *(f"  {problem}" for problem in sorted(problems))]))
