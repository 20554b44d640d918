"""Reads a Hugging Face folder into components: everything is checked first, then filled tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from loongforge_core.errors import WeightsError, near_match
from loongforge_core.layers.interfaces import Component
from loongforge_core.weights.config_keys import config_problems, lookup
from loongforge_core.weights.fill import fill
from loongforge_core.weights.folder import WeightsFolder, read_json
from loongforge_core.weights.holding import Holding, holdings
from loongforge_core.weights.table import Table

__all__ = ["import_hf"]

SHOWN = 10
"""Problems of one kind that are said; the rest are counted."""


def import_hf(folder: Path | str, target: Component[Any] | Mapping[str, Component[Any]], table: Table, config: Any) -> frozenset[str]:
    """Fills `target` with the tensors of `folder`, each rank its own slices.

    `target` and `config` are a component and its config, or both by slot for a whole model, as `table` is the one's or the other's.
    Raises WeightsError listing all that is wrong: keys of config.json that disagree or that nobody knows, tensors that are missing, left
    over or of another shape. Then nothing was filled. Of a table with alternatives, the one is used that the folder's `model_type` names.
    Beyond what is filled, a few megabytes are in memory; a table's own rules may need the tensors that they join. Returns the names of the
    tensors here that were filled, of a whole model behind their slots'.
    """
    path = Path(folder)
    components = {"": target} if isinstance(target, Component) else {f"{slot}.": part for slot, part in target.items()}
    held = holdings(components)
    tree = read_json(path / "config.json")
    check_model_type(path, table, tree)
    table = table.for_folder(tree.get("model_type"))
    stored = WeightsFolder(path)
    names, name_problems = assign(stored, table)
    problems = [
        *capped(check_config(table, tree, config)),
        *name_problems,
        *check_shapes(stored, table, names, held),
        *check_tied(stored, table, names),
        *capped([f"our {name} is in no rule of the table" for name in sorted(without_rule(table, held))]),
    ]
    if problems:
        raise WeightsError("\n".join([f"{path} does not fit the model:", *(f"  {problem}" for problem in problems)]))
    with torch.no_grad():
        for entry in table.entries:
            fill(entry, [stored.tensors[names[theirs]] for theirs in entry.theirs], held)
    return frozenset(name for entry in table.entries for name in entry.ours if name in held)


def check_model_type(path: Path, table: Table, tree: Mapping[str, Any]) -> None:
    """Raises WeightsError for another kind of model: nothing else about it would fit either."""
    formats = (table, *table.alternatives.values())
    given, valid = tree.get("model_type"), [name for each in formats for name in each.model_types]
    if table.model_type and given not in valid:
        expected = " or ".join(map(repr, valid))
        raise WeightsError(f"{path} does not fit the model:\n  config.json: model_type is {given!r}, expected {expected}")


def check_config(table: Table, tree: Mapping[str, Any], config: Any) -> list[str]:
    model_type = tree.get("model_type")
    known = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", *table.placeholder_ids, *table.token_ids)
    section = "" if not table.model_type or model_type == table.model_type else table.config_at[str(model_type)]
    if not section:
        given = {name: value for name, value in tree.items() if name not in known}
        return [f"config.json: {problem}" for problem in config_problems(table.keys, given, config)]
    inner = dict(lookup(tree, section) or {})
    inner.pop("model_type", None)
    return [f"config.json: {section}.{problem}" for problem in config_problems(table.keys, inner, config)]


def assign(stored: WeightsFolder, table: Table) -> tuple[dict[str, str], list[str]]:
    """The name on disk of every name in the table that is there, and what is wrong with the names."""
    names: dict[str, str] = {}
    extra: list[str] = []
    twice: list[str] = []
    for name in sorted(stored.tensors):
        canonical = table.canonical(name)
        if canonical is None:
            extra += [] if table.is_ignored(name) else [name]
        elif canonical in names:
            twice.append(f"{names[canonical]} and {name} are two names of one tensor")
        else:
            names[canonical] = name
    shown = [
        f"extra tensor {name} {list(stored.tensors[name].shape)}: no rule of the table reads it{near_match(name, table.names_on_disk)}"
        for name in extra[:SHOWN]
    ]
    return names, [*shown, *more(extra), *capped(twice)]


def check_shapes(stored: WeightsFolder, table: Table, names: Mapping[str, str], held: Mapping[str, Holding]) -> list[str]:
    missing: list[str] = []
    wrong: list[str] = []
    for entry in table.entries:
        here = all(name in held for name in entry.ours)
        shapes = entry.their_shapes([held[name].shape for name in entry.ours]) if here else [None] * len(entry.theirs)
        for name, expected in zip(entry.theirs, shapes, strict=True):
            if name not in names:
                wanted = f" {list(expected)}" if expected is not None else ""
                missing.append(f"missing tensor {name}{wanted}, for our {', '.join(entry.ours)}")
            elif expected is not None and not entry.rule.reads(given := stored.tensors[names[name]].shape, expected):
                wrong.append(f"{names[name]} has the shape {list(given)}, expected {list(expected)}")
    return [*capped(missing), *capped(wrong)]


def capped(problems: Sequence[str]) -> list[str]:
    """Of one kind, as many as anybody reads."""
    return [*problems[:SHOWN], *more(problems)]


def more(problems: Sequence[str]) -> list[str]:
    return [f"... and {len(problems) - SHOWN} more of these"] if len(problems) > SHOWN else []


def check_tied(stored: WeightsFolder, table: Table, names: Mapping[str, str]) -> list[str]:
    return [
        f"{names[name]} is stored and differs from {names[source]}, but our config ties them"
        for name, source in table.tied.items()
        if name in names and source in names and not stored.tensors[names[name]].equals(stored.tensors[names[source]])
    ]


def without_rule(table: Table, held: Mapping[str, Holding]) -> set[str]:
    covered = {name for entry in table.entries for name in entry.ours}
    return {name for name in held.keys() - covered if not table.is_unpublished(name)}
