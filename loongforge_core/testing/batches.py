"""Global batches for `check_layouts`, with items of any encoder: samples of unequal lengths, with none, one or several items.

    def test_layouts():
        check_layouts(composition, [Layout(tensor=2), Layout(data=2)], batches_with_items(composition, "image", items))

Shapes: b samples, s tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement

__all__ = ["batches_with_items"]

ITEMS = (((1,), (0, 2), (0,), (0, 0)), ((0,), (0, 0), (2, 1), (0,)))
"""Of each sample of each micro-batch, step by step; in both steps one of two data-parallel ranks has none."""


def batches_with_items(composition: Composition, modality: str, items: Callable[[int, torch.Generator], Items]) -> list[list[Batch]]:
    """The micro-batches of each of two steps. `items(number, generator)` draws so many, better of unequal sizes."""
    return [
        [micro_batch(composition, modality, items, numbers, seed=10 * step + index) for index, numbers in enumerate(micro_batches)]
        for step, micro_batches in enumerate(ITEMS)
    ]


def micro_batch(
    composition: Composition, modality: str, items: Callable[[int, torch.Generator], Items], numbers: Sequence[int], *, seed: int
) -> Batch:
    """Samples with so many items each, behind their first token; two of three tokens are targets."""
    assert composition.foundation is not None
    random = torch.Generator().manual_seed(seed)
    drawn = items(sum(numbers), random) if any(numbers) else None
    sizes = iter(drawn.sizes if drawn else ())
    rows = []
    for number in numbers:
        length = int(torch.randint(3, 12, (), generator=random))
        text = torch.randint(composition.foundation.vocab_size, (length,), generator=random)
        places = [torch.full((math.prod(composition.item_grid(modality, next(sizes))),), PLACEHOLDER_ID) for _ in range(number)]
        rows.append(torch.cat((text[:1], *places, text[1:])))
    token_ids_bs = pad_sequence(rows, batch_first=True)
    length = token_ids_bs.shape[1]
    real_bs = torch.arange(length) < torch.tensor([[len(row) - 1] for row in rows])
    return Batch(
        token_ids_bs=token_ids_bs,
        labels_bs=token_ids_bs.roll(-1, 1).clamp(min=0),
        loss_mask_bs=(real_bs & (torch.arange(length) % 3 != 1)).float(),
        position_ids=torch.arange(length).repeat(len(rows), 1),
        items={modality: drawn} if drawn else {},
        placements={modality: Placement(*(token_ids_bs == PLACEHOLDER_ID).nonzero(as_tuple=True))} if drawn else {},
    )
