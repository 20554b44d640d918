"""Puts item embeddings where their placeholders stand, sample by sample.

Shapes: s sequence, b batch, h width, N tokens of all items of a modality.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from loongforge_core.model.batch import Placement

__all__ = ["merge", "scatter_level", "with_zero_gradients"]


def merge(decoder_input_sbh: Tensor, embeddings_Nh: Tensor, placement: Placement) -> Tensor:
    """The input with the rows named by `placement` replaced."""
    rows = embeddings_Nh.to(decoder_input_sbh.dtype)
    return decoder_input_sbh.index_put((placement.position_N, placement.sample_N), rows)


def scatter_level(level_Nh: Tensor, placement: Placement, like_sbh: Tensor) -> Tensor:
    """A level `[s, b, h]`, zero where there is no item."""
    return merge(torch.zeros_like(like_sbh), level_Nh, placement)


class ZeroGradients(torch.autograd.Function):
    """Identity on its first argument; the gradient of all others is zero, not missing."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def with_zero_gradients(hidden: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """`hidden`, through which every trainable one of `parameters` gets a gradient of zero (I8).

    Gradient reduction that waits for all parameters would otherwise hang on a rank whose batch has no item of a modality.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    result: Tensor = ZeroGradients.apply(hidden, *trainable) if trainable else hidden  # type: ignore[no-untyped-call]
    return result
