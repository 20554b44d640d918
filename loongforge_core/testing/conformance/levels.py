"""Levels: a projector projects each by itself, and a language model adds each where its tokens are.

A projector's items are features that lie in the grids that it takes. Shapes: N tokens of all items, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loongforge_core.component import ProcessedItem
from loongforge_core.layers.interfaces import Component, Features
from loongforge_core.testing.conformance.items import TOLERANCE
from loongforge_core.testing.conformance.subject import NotApplicable, Subject
from loongforge_core.testing.conformance.trials import built, difference, features_of, run_backbone, trials

__all__ = ["levels"]


def levels(subject: Subject) -> Iterator[str]:
    number = subject.levels_taken(subject.composition)
    if not number:
        raise NotApplicable("it takes no levels")
    if subject.spec.kind == "backbone":
        yield from levels_reach_logits(subject)
        return
    items = subject.items(subject.modality)
    with built(subject) as component, torch.no_grad():
        features = features_of(component, items)
        if len(features.levels) != number:
            yield f"of {number} levels it gives {len(features.levels)}"
            return
        for index, level_NW in enumerate(features.levels):
            changed = [replace(item, inputs={**item.inputs, f"level {index}": -item.inputs[f"level {index}"]}) for item in items]
            after = features_of(component, changed)
            if difference(after.levels[index], level_NW) < TOLERANCE:
                yield f"level {index} does not depend on the encoder's level {index}"
            yield from in_other_places(component, items, index, features)
            others = [features.hidden_NW, *(each for other, each in enumerate(features.levels) if other != index)]
            theirs = [after.hidden_NW, *(each for other, each in enumerate(after.levels) if other != index)]
            if any(difference(given, expected) > TOLERANCE for given, expected in zip(theirs, others)):
                yield f"what it makes of the features or of another level depends on level {index}"


def in_other_places(component: Component[Any], items: Sequence[ProcessedItem], index: int, before: Features) -> Iterator[str]:
    """A row of a level reaches the tokens that the row of the features in its place reaches.

    It may reach more of them, or fewer: features may be mixed within an item, and levels not.
    """
    rows = telling_rows(items)
    for row in np.random.default_rng(4).choice(rows, size=min(len(rows), 5), replace=False):
        turned, level_turned = (features_of(component, turned_in(items, name, row)) for name in ("values", f"level {index}"))
        by_features = changed_rows(turned.hidden_NW, before.hidden_NW)
        by_level = changed_rows(level_turned.levels[index], before.levels[index])
        common = by_features & by_level
        if common not in (by_features, by_level) or bool(by_features) != bool(by_level):
            yield (
                f"row {row} of level {index} reaches the tokens {sorted(by_level)} of the level; "
                f"of the features it reaches {sorted(by_features)}"
            )
            return


def telling_rows(items: Sequence[ProcessedItem]) -> list[int]:
    """Of all items' rows, those of items that are more than two rows high and wide, where there are any: others fit in one block."""
    lengths = [len(item.inputs["values"]) for item in items]
    starts = np.cumsum([0, *lengths])
    wide = [index for index, item in enumerate(items) if len(item.size) > 1 and min(item.size[-2:]) > 2]
    return [row for index in wide or range(len(items)) for row in range(starts[index], starts[index] + lengths[index])]


def turned_in(items: Sequence[ProcessedItem], name: str, row: int) -> list[ProcessedItem]:
    """With the sign of one row turned, of all items' rows."""
    changed, start = [], 0
    for item in items:
        values = item.inputs[name].copy()
        if start <= row < start + len(values):
            values[row - start] *= -1
        start += len(values)
        changed.append(replace(item, inputs={**item.inputs, name: values}))
    return changed


def changed_rows(after_NW: Tensor, before_NW: Tensor) -> set[int]:
    return set(((after_NW - before_NW).abs().amax(dim=1) > TOLERANCE).nonzero().flatten().tolist())


def levels_reach_logits(subject: Subject) -> Iterator[str]:
    (trial,) = trials(subject)
    with built(subject) as component, torch.no_grad():
        (before,) = trial.run(component)
        for name, level_sbh in trial.tensors.items():
            if name.startswith("level "):
                (after,) = run_backbone(component, {**trial.tensors, name: torch.zeros_like(level_sbh)})
                if difference(after, before) < TOLERANCE:
                    yield f"{name} changes no logits"
