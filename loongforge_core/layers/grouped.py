"""One linear layer of many experts, each for tokens of its own, as one product: on a GPU one kernel instead of hundreds.

Shapes: t tokens, one expert's behind the other's, i and o widths before and behind the layer, e experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["can_be_grouped", "grouped_linear"]

ALIGNMENT = 16
"""Bytes that the rows of torch's grouped products have to be a multiple of."""


def can_be_grouped(*weights_oi: Tensor) -> bool:
    """Whether one product of them is possible and worth it: from torch 2.10 on, with aligned rows, and not on a CPU, where torch
    multiplies one by one too, and putting the weights together costs more than it saves.
    """
    return hasattr(F, "grouped_mm") and all(
        weight.device.type != "cpu" and not any(size * weight.element_size() % ALIGNMENT for size in weight.shape) for weight in weights_oi
    )


def grouped_linear(tokens_ti: Tensor, ends_e: Tensor, weights_oi: Sequence[Tensor]) -> Tensor:
    """`[t, o]`; the tokens of each weight end where `ends_e`, int32, says."""
    result: Tensor = GroupedLinear.apply(tokens_ti, ends_e, *weights_oi)  # type: ignore[no-untyped-call]
    return result


class GroupedLinear(torch.autograd.Function):
    """Weights are put into one tensor for each product and not kept there: else a model would hold all of its experts twice."""

    @staticmethod
    def forward(ctx: Any, tokens_ti: Tensor, ends_e: Tensor, *weights_oi: Tensor) -> Tensor:
        ctx.save_for_backward(tokens_ti, ends_e, *weights_oi)
        return F.grouped_mm(tokens_ti, torch.stack(weights_oi).transpose(1, 2), offs=ends_e)

    @staticmethod
    def backward(ctx: Any, gradient_to: Tensor) -> tuple[Tensor | None, ...]:
        tokens_ti, ends_e, *weights_oi = ctx.saved_tensors
        for_tokens, _, *for_weights = ctx.needs_input_grad
        gradient_to = gradient_to.contiguous()
        tokens = F.grouped_mm(gradient_to, torch.stack(weights_oi), offs=ends_e) if for_tokens else None
        weights = F.grouped_mm(gradient_to.t(), tokens_ti, offs=ends_e).unbind() if any(for_weights) else [None] * len(weights_oi)
        return tokens, None, *weights
