"""Norms of the torch backend. Unlike Megatron's `WrappedTorchNorm` they work under sequence parallelism.

Built by Megatron's specs with `(config, hidden_size, eps)`; their parameters are marked `sequence_parallel`, so that Megatron sums
their gradients over the ranks that each saw a part of the sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LayerNorm", "RMSNorm", "norm_class"]


def mark_sequence_parallel(module: nn.Module, enabled: bool) -> None:
    for parameter in module.parameters():
        parameter.sequence_parallel = enabled  # type: ignore[attr-defined]


class Normalise(torch.autograd.Function):
    """x / rms(x) * weight, in float32. Its gradient takes half as many passes over memory as autograd's of the same formula."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x32 = x.float()
        inverse = (torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_() / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normalised: Tensor = (x32 * inverse).to(x.dtype).mul_(weight)
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        product = (gradient.float() * x).flatten(0, -2)
        along_x = (product @ weight.float()).view_as(inverse) * inverse.pow(3) / x.shape[-1]
        x_gradient = (gradient.float() * weight).mul_(inverse).addcmul_(x.float(), along_x, value=-1)
        return x_gradient.to(x.dtype), (inverse.flatten() @ product).to(weight.dtype), None


class RMSNorm(nn.RMSNorm):
    """Zhang and Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-6, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config.sequence_parallel)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = Normalise.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return normalised


class LayerNorm(nn.LayerNorm):
    """Ba et al. 2016, arXiv:1607.06450."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config.sequence_parallel)


def norm_class(normalization: str) -> type[nn.Module]:
    """The norm that Megatron's field `normalization` names."""
    return {"RMSNorm": RMSNorm, "LayerNorm": LayerNorm}[normalization]
