"""Norms of the torch backend. Unlike Megatron's `WrappedTorchNorm` they work under sequence parallelism.

Built by Megatron's specs with `(config, hidden_size, eps)`; their parameters are marked `sequence_parallel`, so that Megatron sums
their gradients over the ranks that each saw a part of the sequence.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["LayerNorm", "RMSNorm", "norm_class"]


def mark_sequence_parallel(module: nn.Module, enabled: bool) -> None:
    for parameter in module.parameters():
        parameter.sequence_parallel = enabled  # type: ignore[attr-defined]


class RMSNorm(nn.RMSNorm):
    """Zhang and Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-6, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config.sequence_parallel)


class LayerNorm(nn.LayerNorm):
    """Ba et al. 2016, arXiv:1607.06450."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config.sequence_parallel)


def norm_class(normalization: str) -> type[nn.Module]:
    """The norm that Megatron's field `normalization` names."""
    return {"RMSNorm": RMSNorm, "LayerNorm": LayerNorm}[normalization]
