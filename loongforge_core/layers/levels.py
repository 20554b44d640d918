"""How levels travel through a pipeline: behind the hidden states, in the one tensor that Megatron sends from stage to stage.

Levels that arrive are numbered from the first decoder layer here, and those that a stage has added go no further. Stages need not know
of each other: how many levels came follows from the length, so that a batch without items sends none, and a rank with several
virtual stages does the same at each.

Shapes: s sequence (this rank's part of it), b batch, h width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pack_levels", "unpack_levels"]


def pack_levels(hidden_sbh: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """`[(1 + levels) * s, b, h]`, for the next stage."""
    return torch.cat((hidden_sbh, *levels)) if levels else hidden_sbh


def unpack_levels(packed: Tensor, length: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Hidden states and levels, each `[s, b, h]`, of what the previous stage packed; `length` is s."""
    hidden_sbh, *levels = torch.split(packed, length) if packed.shape[0] > length else (packed,)
    return hidden_sbh, tuple(levels)
