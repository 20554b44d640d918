"""Consecutive frames side by side, then linear, GELU, linear: fewer tokens of a long sound, after SLAM-ASR's projector (Ma et al. 2024,
arXiv:2402.08846), which has a ReLU.

No class of transformers is its reference. The last stack of an item is filled up with zeros, so that a short sound has a token too.

Shapes: N features of all items, W their width, M tokens, k features of a stack.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.component import InitialValues
from loongforge_core.layers.interfaces import BuildContext, Features, Projector
from loongforge_projectors.frame_stack.config import FrameStackConfig

__all__ = ["FrameStackProjector"]


class FrameStackProjector(Projector[FrameStackConfig]):
    """Replicated over its encoder's tensor ranks."""

    def __init__(self, config: FrameStackConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        between = config.ffn_hidden_size or config.hidden_size
        self.linear_1 = nn.Linear(config.stack_size * config.input_size, between, bias=config.add_bias_linear)
        self.linear_2 = nn.Linear(between, config.hidden_size, bias=config.add_bias_linear)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, features: Features) -> Features:
        lengths = [length for (length,) in features.grids]
        stacked_MW = stack(features.hidden_NW, lengths, self.config.stack_size)
        hidden_MW = self.linear_2(F.gelu(self.linear_1(stacked_MW), approximate=self.approximate))
        return Features(hidden_MW, tuple(self.config.token_grid(grid) for grid in features.grids))


def stack(hidden_NW: Tensor, lengths: list[int], size: int) -> Tensor:
    """`[M, k * W]` of items of so many features each."""
    if any(length % size for length in lengths):
        hidden_NW = torch.cat([F.pad(item, (0, 0, 0, -len(item) % size)) for item in hidden_NW.split(lengths)])
    return hidden_NW.reshape(-1, size * hidden_NW.shape[1])
