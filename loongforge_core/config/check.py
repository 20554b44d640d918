"""A tree of plain data -> a checked composition, or everything that is wrong with it at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loongforge_core.component import ComponentSpec, RecipeConfig
from loongforge_core.config.composition import Composition, Slot
from loongforge_core.config.layout.check import check_layout
from loongforge_core.config.layout.job import Purpose
from loongforge_core.config.library import Library
from loongforge_core.config.paths import locate_run, locate_slots
from loongforge_core.config.provenance import Provenance
from loongforge_core.config.recipe import check_positions, check_recipe, split_model
from loongforge_core.config.sections import check_run
from loongforge_core.config.sentences import Findings
from loongforge_core.config.settings import RunSettings
from loongforge_core.config.slot_names import FOUNDATION
from loongforge_core.config.slots import check_slots, missing_backend
from loongforge_core.errors import ConfigError, Issue
from loongforge_core.registry.registry import Registry

__all__ = ["composition_from", "idle_settings", "layout_dependences", "load_composition", "long_items", "missing_backends"]

logger = logging.getLogger(__name__)


def load_composition(
    config: str,
    overrides: Sequence[str] = (),
    *,
    registry: Registry,
    config_dirs: Sequence[Path] = (),
    world_size: int | None = 1,
    purpose: Purpose = "train",
) -> Composition:
    """The composition of a YAML file, or of a published name, with overrides in Hydra's syntax.

    Raises ConfigError with everything that is wrong. `world_size` is the number of processes of the run; None leaves the layout
    unchecked against it. Where the purpose is not to train, neither is the batch.
    """
    from loongforge_core.config.compose import compose_tree  # Hydra is slow to import

    library = Library.of(config, registry.config_folders, config_dirs, left_out=tuple(map(str, registry.left_out)))
    composed = compose_tree(config, overrides, library)
    return composition_from(
        composed.tree, registry, name=composed.name, provenance=composed.provenance, world_size=world_size, purpose=purpose
    )


def composition_from(
    tree: Mapping[str, Any],
    registry: Registry,
    *,
    name: str = "composition",
    provenance: Provenance | None = None,
    world_size: int | None = 1,
    purpose: Purpose = "train",
) -> Composition:
    """The composition of a tree of plain data, such as YAML gives. Raises ConfigError with everything that is wrong."""
    findings = Findings(provenance or Provenance())
    sections, rest = split_model(tree.get("model"), registry, findings)
    slots = check_slots(sections, registry, findings)
    recipe = check_recipe(rest, sections, registry, findings)
    check_positions(recipe, slots, findings)
    run = check_run({key: value for key, value in tree.items() if key != "model"}, sections, slots, registry, findings)
    resolved = {"model": resolved_model(recipe, slots), **resolved_run(run)} if recipe else {}
    check_layout(run, slots, world_size, findings, filled=sections, purpose=purpose)
    run, slots = locate_run(run, registry, findings), locate_slots(slots, registry, findings)
    if recipe is not None:
        composition = Composition(name=name, slots=slots, recipe=recipe[0], recipe_config=recipe[1], run=run, resolved=resolved)
        check_length(composition, findings)
        check_evaluation(run, findings)
    if findings.issues or recipe is None:
        raise ConfigError(findings.issues) from findings.cause
    for plugin in (*registry.broken, *registry.remarks):
        logger.warning("%s", plugin)
    return composition


def check_evaluation(run: RunSettings, findings: Findings) -> None:
    if run.train.eval_interval and run.data.path is not None and run.data.eval_path is None:  # commands that do not train may have no data
        findings.add("train.eval_interval", f"got {run.train.eval_interval}, but there is nothing to evaluate on: set data.eval_path")


def check_length(composition: Composition, findings: Findings) -> None:
    """Whether a sample fits into the language model, and one item into a sample, where every item gives the same number of tokens."""
    length = composition.run.train.seq_length
    longest = composition.foundation.max_sequence_length if composition.foundation else None
    if composition.run.data.path is not None and longest is not None and length > longest:  # without data, no sample is that long
        findings.add("train.seq_length", f"got {length}, but the {FOUNDATION} was made for sequences of at most {longest} tokens")
    for modality in composition.modalities if composition.foundation else ():
        try:
            tokens = composition.tokens_per_item(modality)
        except ValueError:  # noted already, where the projector is
            continue
        if tokens is not None and tokens > length:
            findings.add("train.seq_length", f"one {modality} gives {tokens} tokens, and a sample has at most {length}")


def long_items(composition: Composition) -> list[Issue]:
    """Items that are longer than a sample may be: no error of the configuration, since the data may have none of that size."""
    length = composition.run.train.seq_length
    return [
        Issue(f"the largest {modality} gives {most} tokens, and a sample has at most {length}", "train.seq_length")
        for modality in (composition.modalities if composition.foundation else ())
        if composition.tokens_per_item(modality) is None and (most := composition.most_tokens_per_item(modality) or 0) > length
    ]


def idle_settings(composition: Composition) -> list[Issue]:
    """What is asked for and changes nothing."""
    run = composition.run
    if not run.data.packing or run.train.micro_batch_size > 1:
        return []
    return [Issue("true packs the samples of a micro-batch, and train.micro_batch_size is 1: nothing is packed", "data.packing")]


def layout_dependences(composition: Composition) -> list[Issue]:
    """What gives up that numbers are the same in every layout."""
    return [
        Issue(f"numbers depend on the layout and the size of a micro-batch: {why}", f"model.{name}")
        for name, slot in composition.slots.items()
        if (why := slot.config.depends_on_layout)
    ]


def missing_backends(composition: Composition) -> list[Issue]:
    """Backends that are not installed here: no error of the configuration, which may be a cluster's, but here no model can be built."""
    return [
        Issue(f"{why}; install transformer-engine, or use 'torch'", f"model.{name}.backend")
        for name, slot in composition.slots.items()
        if slot.settings.backend and (why := missing_backend(slot.settings.backend))
    ]


def resolved_model(recipe: tuple[ComponentSpec, RecipeConfig], slots: Mapping[str, Slot]) -> dict[str, Any]:
    """The model section as plain data, inferred widths and defaults included; loading it again gives an equal composition."""
    spec, config = recipe
    model: dict[str, Any] = {"model_type": spec.name, **config.model_dump(mode="json")}
    for name, slot in slots.items():
        settings = slot.settings.model_dump(mode="json", exclude_defaults=True)
        model[name] = {"type": slot.spec.name, **settings, **slot.config.model_dump(mode="json")}
    return model


def resolved_run(run: RunSettings) -> dict[str, Any]:
    tree = run.model_dump(mode="json")
    tree["parallel"].update(tree["parallel"].pop("encoders"))
    return tree
