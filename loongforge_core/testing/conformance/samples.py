"""Samples for a composition, made as data workers make them, with items of the component that is tried.

Shapes: s tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from loongforge_core.component import ItemSpan, ProcessedItem
from loongforge_core.config.composition import Composition
from loongforge_core.data.sample import Sample
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID
from loongforge_core.testing.conformance.subject import Subject
from loongforge_core.testing.conformance.trials import concatenated

__all__ = ["drawn_items", "samples"]

TEXTS = (5, 9, 3, 7)
"""Tokens of text of each sample."""
ITEMS = ((0,), (1, 2), (), (3,))
"""Which items each sample has, behind its first token."""


def samples(subject: Subject, *, without_items: bool = False) -> list[Sample]:
    items = subject.items(subject.modality)
    return [
        sample(subject.composition, subject.modality, length, [] if without_items else [items[index % len(items)] for index in own], seed)
        for seed, (length, own) in enumerate(zip(TEXTS, ITEMS, strict=True))
    ]


def sample(composition: Composition, modality: str, length: int, items: Sequence[ProcessedItem], seed: int) -> Sample:
    """Two of three tokens of text are targets."""
    assert composition.foundation is not None
    random = np.random.default_rng(seed)
    text = random.integers(0, composition.foundation.vocab_size, length)
    spans, start = [], 1
    for item in items:
        spans.append(ItemSpan(modality, start, composition.item_grid(modality, item.size), item.details))
        start += spans[-1].num_tokens
    token_ids = np.concatenate([text[:1], np.full(start - 1, PLACEHOLDER_ID), text[1:]]).astype(np.int64)
    labels = np.concatenate([np.maximum(token_ids[1:], 0), [0]]).astype(np.int64)
    is_target = (np.concatenate([token_ids[1:], [PLACEHOLDER_ID]]) != PLACEHOLDER_ID) & (np.arange(len(token_ids)) % 3 != 1)
    positions = composition.recipe_config.position_ids(len(token_ids), spans)
    if composition.foundation.position_axes == 3 and positions.ndim == 1:
        positions = np.stack([positions] * 3)
    return Sample(
        token_ids=token_ids,
        labels=labels,
        loss_mask=is_target.astype(np.float32),
        position_ids=positions,
        where=f"sample {seed + 1}",
        items={modality: tuple(items)} if items else {},
        spans=tuple(spans),
    )


def drawn_items(subject: Subject) -> Callable[[int, torch.Generator], Items]:
    """So many items of the component's, as `batches_with_items` asks for them."""
    items = subject.items(subject.modality)

    def draw(number: int, generator: torch.Generator) -> Items:
        chosen = [items[int(torch.randint(len(items), (), generator=generator))] for _ in range(number)]
        return Items(concatenated(chosen), tuple(item.size for item in chosen))

    return draw
