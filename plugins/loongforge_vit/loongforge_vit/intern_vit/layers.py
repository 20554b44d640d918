"""What InternViT's layers have that Megatron's have not: scaled residual branches.

Shapes: s tokens, b tiles, h width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ScaledBiasAdd"]


class ScaledBiasAdd(nn.Module):
    """Stands where Megatron's specs name a layer's `bias_dropout_add`: the branch is scaled, channel by channel, before it is added.

    Touvron et al. 2021, arXiv:2103.17239. There is no dropout. Every tensor rank holds all of the scale.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, training: bool, fused: bool) -> Callable[[tuple[Tensor, Tensor | None], Tensor, float], Tensor]:
        """What adds `(branch, bias)` to the residual, both `[s, b, h]`; Megatron chooses the arguments of both calls."""
        return self.add

    def add(self, branch: tuple[Tensor, Tensor | None], residual_sbh: Tensor, dropout: float) -> Tensor:
        assert not dropout
        output_sbh, bias = branch
        return torch.addcmul(residual_sbh, output_sbh if bias is None else output_sbh + bias, self.weight)
