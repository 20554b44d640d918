"""One micro-batch, as the collator makes it and the model takes it.

Shapes: b samples, s tokens, N tokens of all items of a modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from loongforge_core.layers.interfaces import Items

__all__ = ["PLACEHOLDER_ID", "Batch", "Placement"]

PLACEHOLDER_ID = -1
"""Stands in `token_ids` wherever an item's embedding goes. Outside every vocabulary; an export writes the published token."""


@dataclass(frozen=True)
class Placement:
    """Where the tokens of a modality's items go: the n-th goes to `token_ids[sample_N[n], position_N[n]]`."""

    sample_N: Tensor
    position_N: Tensor


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right to a common length; or one row in which samples follow one another, where `lengths` says so."""

    token_ids_bs: Tensor
    """int64, `PLACEHOLDER_ID` where an item goes."""
    labels_bs: Tensor
    """int64, the next token; anything where `loss_mask_bs` is 0."""
    loss_mask_bs: Tensor
    """float32, 1 where the next token is a target."""
    position_ids: Tensor
    """int64 `[b, s]`, or `[3, b, s]` for M-RoPE."""
    items: Mapping[str, Items] = field(default_factory=dict)
    """By modality, in the order of samples and, in a sample, of its placeholders; modalities without an item are absent."""
    placements: Mapping[str, Placement] = field(default_factory=dict)
    padding_mask_bs: Tensor | None = None
    """True behind a sample's end; None where no sample is padded."""
    lengths: tuple[int, ...] | None = None
    """Of the samples that share the one row, on the host; None where every sample has a row of its own."""
    names: tuple[str, ...] = ()
    """Of the samples, `file:line`, for what is said about them; empty where they have none."""

    @property
    def num_samples(self) -> int:
        return self.num_rows if self.lengths is None else len(self.lengths)

    @property
    def num_rows(self) -> int:
        return self.token_ids_bs.shape[0]

    def padded(self, multiple: int) -> Batch:
        """The same batch, a multiple of so many tokens long: padding behind everything, which is no target."""
        missing = -self.token_ids_bs.shape[1] % multiple
        if not missing:
            return self
        padding_bs = torch.zeros_like(self.token_ids_bs, dtype=torch.bool) if self.padding_mask_bs is None else self.padding_mask_bs
        return replace(
            self,
            token_ids_bs=F.pad(self.token_ids_bs, (0, missing)),
            labels_bs=F.pad(self.labels_bs, (0, missing)),
            loss_mask_bs=F.pad(self.loss_mask_bs, (0, missing)),
            position_ids=F.pad(self.position_ids, (0, missing)),
            padding_mask_bs=F.pad(padding_bs, (0, missing), value=True),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(
            token_ids_bs=self.token_ids_bs.to(device),
            labels_bs=self.labels_bs.to(device),
            loss_mask_bs=self.loss_mask_bs.to(device),
            position_ids=self.position_ids.to(device),
            items={
                name: Items({key: value.to(device) for key, value in items.inputs.items()}, items.sizes)
                for name, items in self.items.items()
            },
            placements={
                name: Placement(placement.sample_N.to(device), placement.position_N.to(device))
                for name, placement in self.placements.items()
            },
            padding_mask_bs=None if self.padding_mask_bs is None else self.padding_mask_bs.to(device),
            lengths=self.lengths,
            names=self.names,
        )
