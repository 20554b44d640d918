"""What encoders and projectors make of items: how much of it, where, and that items do not see each other.

A projector's items are features that lie in the grids that it takes. Shapes: N tokens of all items, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loongforge_core.component import ProcessedItem
from loongforge_core.layers.interfaces import Component, Features
from loongforge_core.testing.conformance import sequences
from loongforge_core.testing.conformance.subject import NotApplicable, Subject
from loongforge_core.testing.conformance.trials import built, difference, features_of

__all__ = ["TOLERANCE", "independence", "leak", "order", "token_counts"]

TOLERANCE = 1e-4
"""Of features of about 1: float32 through a few layers, in another order of operations where a batch has another shape."""

MANY = 16


# ---- how many features


def token_counts(subject: Subject) -> Iterator[str]:
    for modality in subject.modalities:
        items = subject.all_items(modality)
        with built(subject) as component, torch.no_grad():
            for item in items:
                yield from (f"{where(modality, item)}: {said}" for said in counted(subject, component, [item]))
            yield from (f"{len(items)} items together: {said}" for said in counted(subject, component, items))
        yield from announced_sizes(subject, modality, items)


def counted(subject: Subject, component: Component[Any], items: Sequence[ProcessedItem]) -> Iterator[str]:
    config = subject.config
    grids = tuple(config.token_grid(item.size) for item in items)
    features = features_of(component, items)
    expected = sum(math.prod(grid) for grid in grids)
    width = config.feature_size if subject.spec.kind == "encoder" else config.hidden_size
    if tuple(features.hidden_NW.shape) != (expected, width):
        yield f"features are {list(features.hidden_NW.shape)}, its config says {[expected, width]} (grids {grids})"
    if features.grids != grids:
        yield f"it emits the grids {features.grids}, its config's `token_grid` says {grids}"
    if len(features.levels) != config.num_levels:
        yield f"it emits {len(features.levels)} levels, its config says {config.num_levels}"
    for index, level in enumerate(features.levels):
        if level.shape != features.hidden_NW.shape:
            yield f"level {index} is {list(level.shape)}, the features are {list(features.hidden_NW.shape)}"
    if subject.spec.kind == "encoder" and config.num_tokens(items[0].size) != math.prod(grids[0]):
        yield f"`num_tokens` says {config.num_tokens(items[0].size)}, `token_grid` {grids[0]}"


def announced_sizes(subject: Subject, modality: str, items: Sequence[ProcessedItem]) -> Iterator[str]:
    """What `validate` is told of the processor's sizes."""
    if subject.spec.kind != "encoder":
        return
    fixed, largest = subject.config.fixed_item_size, subject.config.largest_item_size(modality)
    for item in items:
        if fixed is not None and subject.config.token_grid(item.size) != subject.config.token_grid(fixed):
            yield f"{where(modality, item)}: `fixed_item_size` says that every item is {fixed}"
        if largest is not None and subject.config.num_tokens(item.size) > (most := subject.config.num_tokens(largest)):
            yield f"{where(modality, item)}: {subject.config.num_tokens(item.size)} tokens, `largest_item_size` says at most {most}"


def where(modality: str, item: ProcessedItem) -> str:
    return f"{modality} of size {item.size}"


# ---- items do not see each other


def order(subject: Subject) -> Iterator[str]:
    for modality in subject.modalities:
        items = several(subject, modality)
        with built(subject) as component, torch.no_grad():
            straight = by_item(features_of(component, items))
            for name, permutation in permutations(len(items)).items():
                given = by_item(features_of(component, [items[index] for index in permutation]))
                yield from (
                    f"{where(modality, items[index])}: its features differ by {worst:.2g} where it is number {place + 1} of "
                    f"{len(items)} ({name}) instead of number {index + 1}"
                    for place, index in enumerate(permutation)
                    if (worst := difference(given[place], straight[index])) > TOLERANCE
                )


def permutations(number: int) -> Mapping[str, Sequence[int]]:
    rows = list(range(number))
    return {"reversed": rows[::-1], "the first one last": rows[1:] + rows[:1]}


def independence(subject: Subject) -> Iterator[str]:
    for modality in subject.modalities:
        items = several(subject, modality)
        with built(subject) as component, torch.no_grad():
            together = by_item(features_of(component, items))
            for index, item in enumerate(items):
                (alone,) = by_item(features_of(component, [item]))
                if (worst := difference(together[index], alone)) > TOLERANCE:
                    yield (
                        f"{where(modality, item)}: its features differ by {worst:.2g} beside {len(items) - 1} others from those alone, "
                        f"allowed {TOLERANCE}"
                    )


def leak(subject: Subject) -> Iterator[str]:
    if subject.spec.kind == "backbone":
        yield from sequences.leak(subject)
        return
    for modality in subject.modalities:
        items = several(subject, modality)
        with built(subject) as component, torch.no_grad():
            before = by_item(features_of(component, items))
            for index in (0, len(items) // 2, len(items) - 1):
                changed = [replace(item, inputs=other_content(item)) if each == index else item for each, item in enumerate(items)]
                after = by_item(features_of(component, changed))
                if difference(after[index], before[index]) <= TOLERANCE:
                    yield f"{where(modality, items[index])}, number {index + 1}: another content changes nothing in its own features"
                for other in (each for each in range(len(items)) if each != index):
                    if (worst := difference(after[other], before[other])) > TOLERANCE:
                        yield (
                            f"{where(modality, items[other])}, number {other + 1}: its features change by {worst:.2g} where the content of "
                            f"number {index + 1} changes"
                        )


def other_content(item: ProcessedItem) -> Mapping[str, np.ndarray]:
    """Other values of the same shapes. A few whole numbers, which may be sizes or indices, stay; many are turned round."""
    random = np.random.default_rng(9)

    def other(value: np.ndarray) -> np.ndarray:
        if value.dtype.kind == "f":
            return (3 * random.normal(size=value.shape)).astype(value.dtype)
        return value if value.size < MANY else np.ascontiguousarray(value[::-1])

    return {name: other(value) for name, value in item.inputs.items()}


def several(subject: Subject, modality: str) -> Sequence[ProcessedItem]:
    items = subject.items(modality)
    if len(items) < 2:
        raise NotApplicable(f"one item of {modality} alone cannot tell; `Processor.examples` should write several")
    return items


def by_item(features: Features) -> list[Tensor]:
    """Each item's features and levels `[levels + 1, n, W]`. Raises NotApplicable where nobody can say which are whose."""
    lengths = [math.prod(grid) for grid in features.grids]
    if any(len(each) != sum(lengths) for each in (features.hidden_NW, *features.levels)):
        raise NotApplicable("its features are not as many as their grids say, so that items cannot be told apart: see `token_counts`")
    stacked_lNW = torch.stack((features.hidden_NW, *features.levels))
    return list(torch.split(stacked_lNW, lengths, dim=1))
