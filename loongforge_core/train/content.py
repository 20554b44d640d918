"""The loss of each sample, and of those that contain the same: text alone, or items of a modality.

A sample with items of two modalities counts in both.

Shapes: b rows, s tokens, n samples, c contents: text alone, then each modality.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loongforge_core.model.batch import Batch

__all__ = ["TEXT_ONLY", "contents", "sums_by_content", "sums_by_sample"]

TEXT_ONLY = "text_only"
"""The first content, before the modalities."""


def contents(batch: Batch, modalities: Sequence[str]) -> Tensor:
    """What each sample of a batch contains, bool `[n, c]`, where the batch is."""
    found_nc = torch.zeros(batch.num_samples, 1 + len(modalities), dtype=torch.bool, device=batch.token_ids_bs.device)
    for number, modality in enumerate(modalities, start=1):
        if (placement := batch.placements.get(modality)) is not None:
            found_nc[sample_of(batch, placement.sample_N, placement.position_N), number] = True
    found_nc[:, 0] = ~found_nc.any(dim=1)
    return found_nc


def sample_of(batch: Batch, row_N: Tensor, position_N: Tensor) -> Tensor:
    """The number of the sample that has each place: of its row, or of the one row that all share."""
    if batch.lengths is None:
        return row_N
    ends_n = torch.tensor(batch.lengths, device=position_N.device).cumsum(0)
    return torch.searchsorted(ends_n, position_N, right=True)


def sums_by_sample(token_losses_bs: Tensor, loss_mask_bs: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Sum of the loss over target tokens, and their number, of each sample: float64 `[n, 2]`. Waits for no device."""
    both_2bs = torch.stack((token_losses_bs.detach() * loss_mask_bs, loss_mask_bs))
    if lengths is None:
        return both_2bs.sum(2, dtype=torch.float64).t()
    padding = both_2bs.shape[2] - sum(lengths)  # behind the last sample of the row
    parts_21s = torch.split(both_2bs, [*lengths, padding], dim=2)[:-1]
    return torch.stack([part_21s.sum((1, 2), dtype=torch.float64) for part_21s in parts_21s])


def sums_by_content(sums_n2: Tensor, contents_nc: Tensor) -> Tensor:
    """`sums_by_sample` of all that contain the same, `[c, 2]`. What is not finite stays where it belongs."""
    return torch.where(contents_nc.unsqueeze(-1), sums_n2.unsqueeze(1), 0.0).sum(0)
