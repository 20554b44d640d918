"""The gated SiLU of a decoder's MLP (SwiGLU; Shazeer 2020, arXiv:2002.05202).

Shapes: f MLP width.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import MegatronModule
from torch import Tensor
from torch.nn import functional as F

__all__ = ["GatedSilu"]


class SiluTimes(torch.autograd.Function):
    """silu(gate) * up, for gate and up side by side. Its gradient is written in place where autograd would copy both halves together."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        silu = F.silu(gate)
        ctx.save_for_backward(both, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        both, silu = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        result = torch.empty_like(both)
        gate_gradient, up_gradient = result.chunk(2, dim=-1)
        torch.mul(gradient, silu, out=up_gradient)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=gate_gradient)
        return result


class GatedSilu(MegatronModule):  # type: ignore[misc]
    """Stands where Megatron's MLP takes an activation module: `[..., 2 f]`, gate then up, -> `[..., f]`."""

    def forward(self, both: Tensor) -> Tensor:
        result: Tensor = SiluTimes.apply(both)  # type: ignore[no-untyped-call]
        return result
