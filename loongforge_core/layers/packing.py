"""Several sequences in one row, without padding and without attention between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams

__all__ = ["PackedRow", "packed_row"]


@dataclass
class PackedRow(PackedSeqParams):  # type: ignore[misc]
    """Megatron's description of a packed row, with the lengths on the host too: nothing has to ask a device for them."""

    lengths: tuple[int, ...] = ()


def packed_row(lengths: Sequence[int], *, total: int | None = None, device: torch.device | None = None) -> PackedRow:
    """A row of sequences of these lengths; what is left of `total` behind them is padding, a sequence of its own."""
    padding = (total or 0) - sum(lengths)
    lengths = (*lengths, padding) if padding > 0 else tuple(lengths)
    ends = torch.tensor((0, *lengths)).cumsum(0, dtype=torch.int32).to(device, non_blocking=True)
    longest = max(lengths, default=0)
    return PackedRow(
        qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends, max_seqlen_q=longest, max_seqlen_kv=longest, lengths=tuple(lengths)
    )
