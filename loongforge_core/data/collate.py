"""Samples -> one batch, padded on the right or packed into one row; every count is checked here, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from loongforge_core.component import ItemSpan, ProcessedItem
from loongforge_core.data.sample import Sample
from loongforge_core.errors import DataError
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement

__all__ = ["collate", "collate_packed"]


def collate(samples: Sequence[Sample]) -> Batch:
    """The samples as one micro-batch. Padding is token 0 with mask 0, behind everything that is attended to.

    Raises DataError naming a sample whose placeholders do not match its items.
    """
    for sample in samples:
        check(sample)
    length = max(map(len, samples))
    modalities = dict.fromkeys(modality for sample in samples for modality in sample.items)
    return Batch(
        token_ids_bs=pad([sample.token_ids for sample in samples], length),
        labels_bs=pad([sample.labels for sample in samples], length),
        loss_mask_bs=pad([sample.loss_mask for sample in samples], length),
        position_ids=pad([sample.position_ids for sample in samples], length),
        items={modality: joined_items([item for sample in samples for item in sample.items.get(modality, ())]) for modality in modalities},
        placements={modality: placement(samples, modality) for modality in modalities},
        padding_mask_bs=padding_mask(list(map(len, samples)), length),
        names=tuple(sample.where for sample in samples),
    )


def collate_packed(samples: Sequence[Sample]) -> Batch:
    """The samples as one micro-batch without padding: one after another in a single row, blind to each other."""
    for sample in samples:
        check(sample)
    return replace(collate([joined(samples)]), lengths=tuple(map(len, samples)), names=tuple(sample.where for sample in samples))


def joined(samples: Sequence[Sample]) -> Sample:
    """All samples as one: a sample's last token has no target, so that nothing is learned across their borders."""
    starts = np.cumsum([0, *map(len, samples[:-1])]).tolist()
    modalities = dict.fromkeys(modality for sample in samples for modality in sample.items)
    return Sample(
        token_ids=np.concatenate([sample.token_ids for sample in samples]),
        labels=np.concatenate([sample.labels for sample in samples]),
        loss_mask=np.concatenate([sample.loss_mask for sample in samples]),
        position_ids=np.concatenate([sample.position_ids for sample in samples], axis=-1),
        where=", ".join(sample.where for sample in samples),
        items={modality: tuple(item for sample in samples for item in sample.items.get(modality, ())) for modality in modalities},
        spans=tuple(
            replace(span, start=span.start + start) for sample, start in zip(samples, starts, strict=True) for span in sample.spans
        ),
    )


def check(sample: Sample) -> None:
    placeholders = int((sample.token_ids == PLACEHOLDER_ID).sum())
    expected = sum(span.num_tokens for span in sample.spans)
    if placeholders != expected:
        raise DataError(f"{sample.where}: {placeholders} placeholder tokens, but its items give {expected}")
    for modality in {*sample.items, *(span.modality for span in sample.spans)}:
        places = sum(span.modality == modality and not span.continues for span in sample.spans)
        if places != (items := len(sample.items.get(modality, ()))):
            raise DataError(f"{sample.where}: {places} places for items of modality {modality!r}, but {items} items")


def pad(arrays: Sequence[np.ndarray], length: int) -> torch.Tensor:
    """`[b, length]` of arrays `[s]`, `[axes, b, length]` of arrays `[axes, s]`."""
    padded = np.zeros((*arrays[0].shape[:-1], len(arrays), length), dtype=arrays[0].dtype)
    for index, array in enumerate(arrays):
        padded[..., index, : array.shape[-1]] = array
    return torch.from_numpy(padded)


def padding_mask(lengths: Sequence[int], length: int) -> torch.Tensor | None:
    if min(lengths) == length:
        return None
    return torch.arange(length) >= torch.tensor(lengths).unsqueeze(1)


def joined_items(items: Sequence[ProcessedItem]) -> Items:
    inputs = {name: torch.from_numpy(np.concatenate([item.inputs[name] for item in items])) for name in items[0].inputs}
    return Items(inputs, tuple(item.size for item in items))


def placement(samples: Sequence[Sample], modality: str) -> Placement:
    """Items are in the order of samples and, in a sample, of its spans; so are the places."""
    spans: list[tuple[int, ItemSpan]] = [
        (index, span) for index, sample in enumerate(samples) for span in sample.spans if span.modality == modality
    ]
    lengths = np.array([span.num_tokens for _, span in spans], dtype=np.int64)
    starts = np.array([span.start for _, span in spans], dtype=np.int64)
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    return Placement(
        sample_N=torch.from_numpy(np.repeat(np.array([index for index, _ in spans], dtype=np.int64), lengths)),
        position_N=torch.from_numpy(np.repeat(starts, lengths) + within),
    )
