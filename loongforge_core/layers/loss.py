"""Cross-entropy over a vocabulary that may be split over ranks and padded.

Shapes: s sequence, b batch, v this rank's part of the vocabulary.
"""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor
from torch.nn import functional as F

__all__ = ["mask_padded_vocabulary", "token_losses"]


def mask_padded_vocabulary(logits_sbv: Tensor, vocab_size: int, first_row: int) -> Tensor:
    """Logits of rows beyond `vocab_size` become the smallest number; `first_row` is the vocabulary index of this rank's first."""
    real = vocab_size - first_row
    if real >= logits_sbv.shape[-1]:
        return logits_sbv
    rows = torch.arange(logits_sbv.shape[-1], device=logits_sbv.device)
    return logits_sbv.masked_fill(rows >= real, torch.finfo(logits_sbv.dtype).min)


def token_losses(logits_sbv: Tensor, labels_bs: Tensor, group: torch.distributed.ProcessGroup) -> Tensor:
    """Cross-entropy of every token, `[b, s]`, in the precision of the logits."""
    labels_sb = labels_bs.t().contiguous()
    if group.size() == 1:
        flat = F.cross_entropy(logits_sbv.flatten(0, 1), labels_sb.flatten(), reduction="none")
        return flat.view_as(labels_sb).t()
    # Megatron's takes its global tensor-parallel group (0.16.1 has no argument for it), which is the language model's.
    losses_sb: Tensor = vocab_parallel_cross_entropy(logits_sbv, labels_sb)
    return losses_sb.t()
