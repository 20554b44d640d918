"""Norms of the torch backend. Unlike Megatron's `WrappedTorchNorm` they work under sequence parallelism.

Built by Megatron's specs with `(config, hidden_size, eps)`; their parameters are marked `sequence_parallel`, so that Megatron sums
their gradients over the ranks that each saw a part of the sequence. `AllHeadsRMSNorm` is built by its attention instead, which knows the
ranks that share the heads.

Shapes: s sequence, b batch, n heads of this rank, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, distributed, nn

__all__ = ["AllHeadsRMSNorm", "LayerNorm", "RMSNorm", "norm_class"]


def mark_sequence_parallel(module: nn.Module, enabled: bool) -> None:
    for parameter in module.parameters():
        parameter.sequence_parallel = enabled  # type: ignore[attr-defined]


def precise(tensor: Tensor) -> Tensor:
    """In float32, or as it is where that is more."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Normalise(torch.autograd.Function):
    """x / rms(x) * weight, in float32 at least. Its gradient takes half as many passes over memory as autograd's of the same formula.

    Where `group` is given, each of its ranks has as many columns of x and of the weight, and the mean square is over all of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, group: distributed.ProcessGroup | None = None) -> Tensor:
        wide = precise(x)
        squares = summed(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_(), group)
        ctx.group, ctx.width = group, x.shape[-1] * (group.size() if group else 1)
        inverse = (squares / ctx.width).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normalised: Tensor = (wide * inverse).to(x.dtype).mul_(weight)
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        product = (precise(gradient) * x).flatten(0, -2)
        # Every rank's outputs depend on all columns through the mean square.
        along_x = summed(product @ precise(weight), ctx.group).view_as(inverse) * inverse.pow(3) / ctx.width
        x_gradient = (precise(gradient) * weight).mul_(inverse).addcmul_(precise(x), along_x, value=-1)
        return x_gradient.to(x.dtype), (inverse.flatten() @ product).to(weight.dtype), None, None


def summed(tensor: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
    """The sum over the ranks of `group`, in place."""
    if group is not None and group.size() > 1:
        distributed.all_reduce(tensor, group=group)
    return tensor


class RMSNorm(nn.RMSNorm):
    """Zhang and Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-6, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config.sequence_parallel)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = Normalise.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return normalised


class AllHeadsRMSNorm(nn.Module):
    """One RMS norm over the heads of all tensor ranks together, as InternViT-6B and MiniMax-M2 normalise queries and keys.

    Each rank has the weights of its own heads.
    """

    def __init__(self, config: Any, num_heads: int, head_size: int, *, group: distributed.ProcessGroup) -> None:
        """`num_heads` is this rank's number, of as many on each rank of `group`."""
        super().__init__()
        self.eps, self.group = config.layernorm_epsilon, group
        self.weight = nn.Parameter(torch.empty(num_heads * head_size, dtype=config.params_dtype))

    def forward(self, x_sbnd: Tensor) -> Tensor:
        normalised: Tensor = Normalise.apply(x_sbnd.flatten(-2), self.weight, self.eps, self.group)  # type: ignore[no-untyped-call]
        return normalised.view(x_sbnd.shape)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        assert metadata is not None
        described: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            self.state_dict(keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self.group,
            dp_cp_group=metadata["dp_cp_group"],
        )
        return described


class LayerNorm(nn.LayerNorm):
    """Ba et al. 2016, arXiv:1607.06450."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config.sequence_parallel)


def norm_class(normalization: str) -> type[nn.Module]:
    """The norm that Megatron's field `normalization` names."""
    return {"RMSNorm": RMSNorm, "LayerNorm": LayerNorm}[normalization]
